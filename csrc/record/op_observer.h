// Records every op that PyTorch's dispatcher runs, on every thread, through at::RecordFunction.
#pragma once

#include <ATen/record_function.h>

// RecordFunction has members that exist only without NDEBUG. PyTorch is built with NDEBUG, so without it the layout here would differ
// from the one in libtorch.
#ifndef NDEBUG
#error "torchprof must be compiled with -DNDEBUG: build it with `pip install --no-build-isolation .`"
#endif

namespace torchprof {

class OpObserver {
 public:
  explicit OpObserver(bool shapes);
  ~OpObserver();
  OpObserver(const OpObserver&) = delete;
  OpObserver& operator=(const OpObserver&) = delete;

 private:
  at::CallbackHandle handle_;
};

}  // namespace torchprof
