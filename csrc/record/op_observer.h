// Records every op that PyTorch's dispatcher runs, on every thread, through at::RecordFunction.
#pragma once

#include <ATen/record_function.h>

// RecordFunction has members that exist only without NDEBUG. PyTorch is built with NDEBUG, so without it the layout here would differ
// from the one in libtorch.
#ifndef NDEBUG
#error "torchprof must be compiled with -DNDEBUG: build it with `pip install --no-build-isolation .`"
#endif

#include <vector>

#include "record/builtin_hooks.h"

namespace torchprof {

// There is at most one at a time.
class OpObserver {
 public:
  // `runtimes`: the functions that run code by another of PyTorch's runtimes, that of mobile or the static one, see BuiltinHooks.
  OpObserver(bool shapes, const std::vector<PyObject*>& runtimes);
  ~OpObserver();
  OpObserver(const OpObserver&) = delete;
  OpObserver& operator=(const OpObserver&) = delete;

 private:
  const BuiltinHooks runtimes_;
  at::CallbackHandle handle_;  // the last: where anything before it fails, nothing stays behind
};

}  // namespace torchprof
