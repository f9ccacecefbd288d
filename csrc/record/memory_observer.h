// Receives PyTorch's reports of memory handed out and given back, on the thread that started the recording and on the
// autograd threads that work for it. Reports reach the object in the thread's PROFILER_STATE slot.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "trace/tables.h"

namespace torchprof {

class MemoryObserver {
 public:
  // Throws std::runtime_error when another profiler holds the slot. `held` are blocks from before that PyTorch shall report
  // the end of: left alone, it does not on the CPU, where it knows no size of them.
  explicit MemoryObserver(const std::vector<Held>& held);
  ~MemoryObserver();  // on the thread that constructed it
  MemoryObserver(const MemoryObserver&) = delete;
  MemoryObserver& operator=(const MemoryObserver&) = delete;

  static bool slot_is_taken();
};

// The most real memory held since this was last asked, by kernels of this thread that pretend to run.
int64_t take_real_peak();

}  // namespace torchprof
