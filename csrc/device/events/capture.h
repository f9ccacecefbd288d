// Whether a stream is being captured into a graph, which an event would become a part of, and waiting would break. Older versions of
// PyTorch cannot tell: then any may be.
#pragma once

#include <c10/core/Stream.h>
#include <c10/core/impl/VirtualGuardImpl.h>

namespace torchprof {

template <typename Guard>
concept TellsCapture = requires(const Guard& guard, const c10::Stream& stream) { guard.isStreamCapturing(stream); };

inline constexpr bool kTellsCapture = TellsCapture<c10::impl::VirtualGuardImpl>;

template <typename Guard>
bool is_captured(const Guard& guard, const c10::Stream& stream) {
  if constexpr (TellsCapture<Guard>) {
    return guard.isStreamCapturing(stream);
  }
  return true;
}

}  // namespace torchprof
