// PyTorch's place for one profiler on each thread, PROFILER_STATE, to which allocators report. torch.profiler refuses to start where
// something stands in it, and trusts that what stands there is its own. So the state of a recording stands aside while one of PyTorch's
// profilers is started, runs and is ended:
//
//                       start         end
//   torch.profiler        ├─────────────┤           the reports of allocators go to it
//   recording     ├───────┤             ├──────     the reports of allocators go to the recording
//
// All of them are started and ended by a few functions of torch._C, see BuiltinHooks. Everything here needs the GIL.
#pragma once

#include <Python.h>
#include <c10/util/ThreadLocalDebugInfo.h>

#include <memory>
#include <thread>
#include <vector>

#include "record/builtin_hooks.h"

namespace torchprof {

class ProfilerSlot {
 public:
  // `state`: a ProfilerStateBase, put into the slot of this thread unless one of PyTorch's is there. `switches`: the functions that
  // start and end PyTorch's profilers, borrowed; what is no built-in function is left alone. There is at most one ProfilerSlot.
  ProfilerSlot(std::shared_ptr<c10::DebugInfoBase> state, const std::vector<PyObject*>& switches);
  ~ProfilerSlot();  // on any thread
  ProfilerSlot(const ProfilerSlot&) = delete;
  ProfilerSlot& operator=(const ProfilerSlot&) = delete;

  // Whether one of PyTorch's profilers had the slot for some time.
  bool was_shared() const { return was_shared_; }
  bool is_held() const;  // on this thread, now
  const c10::DebugInfoBase* state() const { return state_.get(); }

  static bool is_taken();  // on this thread, by anything
  static bool exists();

  // For the functions that stand in place of the switches.
  void stand_aside() noexcept;
  void come_back() noexcept;

 private:
  const std::shared_ptr<c10::DebugInfoBase> state_;
  const std::thread::id thread_ = std::this_thread::get_id();
  const BuiltinHooks switches_;
  bool was_shared_ = false;
};

}  // namespace torchprof
