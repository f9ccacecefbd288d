// Records allocations and frees: those of the CPU on every thread, and what PyTorch reports to the thread that started the recording
// and to the autograd threads of its backward passes. PyTorch reports to the object in the thread's PROFILER_STATE slot: memory of other
// devices, memory that is mapped, and the few blocks of the CPU that go past CpuAllocator, such as those of torch.UntypedStorage(n).
#pragma once

#include <optional>

#include "record/cpu_allocator.h"

namespace torchprof {

class MemoryObserver {
 public:
  MemoryObserver();   // throws std::runtime_error if another profiler holds the slot
  ~MemoryObserver();  // on the thread that constructed it
  MemoryObserver(const MemoryObserver&) = delete;
  MemoryObserver& operator=(const MemoryObserver&) = delete;

  static bool slot_is_taken();
  static bool has_slot();  // whether the slot of this thread is that of a recording

 private:
  std::optional<CpuAllocator> cpu_;
};

}  // namespace torchprof
