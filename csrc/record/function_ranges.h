// Records calls of two functions of PyTorch's as user ranges (range_names.h):
//
//   iter(loader) of a DataLoader   it starts its workers there; around next(), PyTorch opens a range itself
//   the autograd engine            what it runs is recorded as ops; callbacks and other ranks, for which it waits, are not
//
// The hooks are of the functions, so loaders and their iterators are as they were, and what is left of one when the recording ends knows
// nothing of it. Needs the GIL.
#pragma once

#include <Python.h>

#include "record/function_hook.h"

namespace torchprof {

class FunctionRanges {
 public:
  // DataLoader.__iter__, and the Python function that calls the engine; either may be nullptr. `sees_evaluators`: see FunctionHook.
  FunctionRanges(PyObject* loader_iter, PyObject* run_backward, bool sees_evaluators);

 private:
  FunctionHook loader_iter_;
  FunctionHook run_backward_;
};

}  // namespace torchprof
