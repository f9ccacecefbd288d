// Records iter(loader) of a DataLoader, in which it starts its workers, as a user range named kLoaderRange. PyTorch opens a range itself
// around next(). The hook is of the function DataLoader.__iter__, so loaders, their subclasses and iterators are as they were, and what
// is left of an iterator when the recording ends knows nothing of it. Needs the GIL.
#pragma once

#include <Python.h>

#include "record/function_hook.h"

namespace torchprof {

class LoaderObserver {
 public:
  // `iter`: DataLoader.__iter__. `sees_evaluators`: see FunctionHook.
  LoaderObserver(PyObject* iter, bool sees_evaluators);

 private:
  FunctionHook function_;
};

}  // namespace torchprof
