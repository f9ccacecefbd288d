// Sees the runs of what AOTInductor compiled ahead of time: a library of machine code, whose kernels are no ops. While this exists, each
// run is a range named kAheadOfTime, as torch.compile has one for each of its regions, and the call of a module that it runs in is marked
// as compiled. All of this needs the GIL.
#pragma once

#include <Python.h>

#include <vector>

#include "record/builtin_hooks.h"

namespace torchprof {

inline constexpr char kAheadOfTime[] = "Torch-Compiled Region: AOTInductor";

class AheadOfTimeObserver {
 public:
  // `runs`: the functions that run what was compiled, see BuiltinHooks.
  explicit AheadOfTimeObserver(const std::vector<PyObject*>& runs);

 private:
  const BuiltinHooks hooks_;
};

}  // namespace torchprof
