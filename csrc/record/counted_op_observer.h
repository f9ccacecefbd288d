// Records the ops that a count of FLOPs needs, and skips all others: see OpClass. An op inside another one that is counted is skipped
// as well; inside one that is unknown, everything is recorded. This costs a third of what recording all ops does.
#pragma once

#include <ATen/record_function.h>

namespace torchprof {

class CountedOpObserver {
 public:
  // Without `outputs` an op has none in the trace, and one that raised has no inputs either.
  explicit CountedOpObserver(bool outputs);
  ~CountedOpObserver();
  CountedOpObserver(const CountedOpObserver&) = delete;
  CountedOpObserver& operator=(const CountedOpObserver&) = delete;

 private:
  at::CallbackHandle handle_;
};

}  // namespace torchprof
