// Sees every op that PyTorch's dispatcher runs, on every thread, through at::RecordFunction.
#pragma once

#include <ATen/record_function.h>

// RecordFunction has members that exist only without NDEBUG. PyTorch is built with it: compiled without, its layout here
// differs from the one in libtorch and every field read is garbage.
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
