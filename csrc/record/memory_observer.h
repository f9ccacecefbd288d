// Receives PyTorch's reports of allocations and frees, on the thread that started the recording and on the autograd threads of its
// backward passes. PyTorch sends them to the object in the thread's PROFILER_STATE slot.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "record/profiler_slot.h"
#include "trace/tables.h"

namespace torchprof {

class MemoryObserver {
 public:
  // `held` are blocks from before the recording whose frees shall be reported: by itself, PyTorch does not report them on the CPU,
  // where it does not know their size. `profiler_switches`: see ProfilerSlot.
  MemoryObserver(const std::vector<Held>& held, const std::vector<PyObject*>& profiler_switches);

  // Whether a profiler of PyTorch's ran on this thread meanwhile: reports went to it alone.
  bool was_shared() const { return slot_.was_shared(); }

 private:
  ProfilerSlot slot_;
};

// The most real memory that was allocated at once on this thread while recording was paused, since the previous call.
int64_t take_real_peak();

}  // namespace torchprof
