// Records allocations and frees: those of the CPU on every thread, and what PyTorch reports to the thread that started the recording
// and to the autograd threads of its backward passes. PyTorch reports to the object in the thread's PROFILER_STATE slot: memory of other
// devices, memory that is mapped, and the few blocks of the CPU that go past CpuAllocator, such as those of torch.UntypedStorage(n).
#pragma once

#include <Python.h>

#include <optional>
#include <vector>

#include "record/cpu_allocator.h"
#include "record/profiler_slot.h"

namespace torchprof {

class MemoryObserver {
 public:
  explicit MemoryObserver(const std::vector<PyObject*>& profiler_switches);  // see ProfilerSlot
  ~MemoryObserver();
  MemoryObserver(const MemoryObserver&) = delete;
  MemoryObserver& operator=(const MemoryObserver&) = delete;

  static bool has_slot();  // whether the slot of this thread is that of a recording
  // Whether a profiler of PyTorch's ran on this thread meanwhile: what PyTorch reports went to it alone.
  bool was_shared() const { return slot_.was_shared(); }

 private:
  ProfilerSlot slot_;
  std::optional<CpuAllocator> cpu_;
};

}  // namespace torchprof
