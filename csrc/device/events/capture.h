// Whether a stream is being captured into a graph. Then an event would become a part of the graph, and waiting would break it. Older
// versions of PyTorch do not say: then any stream may be.
#pragma once

#include <c10/core/Stream.h>
#include <c10/core/impl/VirtualGuardImpl.h>

namespace torchprof::events {

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

}  // namespace torchprof::events
