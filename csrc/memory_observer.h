// Receives PyTorch's reports of memory handed out and given back, on the thread that started the recording and on the
// autograd threads that work for it. Reports reach the object in the thread's PROFILER_STATE slot.
#pragma once

#include <memory>

namespace torchprof {

class MemoryObserver {
 public:
  MemoryObserver();   // throws std::runtime_error when another profiler holds the slot
  ~MemoryObserver();  // on the thread that constructed it
  MemoryObserver(const MemoryObserver&) = delete;
  MemoryObserver& operator=(const MemoryObserver&) = delete;

  static bool slot_is_taken();
};

}  // namespace torchprof
