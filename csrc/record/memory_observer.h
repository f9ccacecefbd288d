// Receives PyTorch's reports of allocations and frees, on the thread that started the recording and on the autograd threads of its
// backward passes. PyTorch sends them to the object in the thread's PROFILER_STATE slot.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "trace/tables.h"

namespace torchprof {

class MemoryObserver {
 public:
  // Throws std::runtime_error if another profiler holds the slot. `held` are blocks from before the recording whose frees shall be
  // reported: by itself, PyTorch does not report them on the CPU, where it does not know their size.
  explicit MemoryObserver(const std::vector<Held>& held);
  ~MemoryObserver();  // on the thread that constructed it
  MemoryObserver(const MemoryObserver&) = delete;
  MemoryObserver& operator=(const MemoryObserver&) = delete;

  static bool slot_is_taken();
};

// The most real memory that was allocated at once on this thread while recording was paused, since the previous call.
int64_t take_real_peak();

}  // namespace torchprof
