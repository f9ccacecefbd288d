// Sees when the program installs or removes an evaluator of frames of its own (PEP 523), as Dynamo does around all compiled code. It does
// so by a built-in function of one argument, the callback that compiles, or None; the function stays the same object and runs as ever.
// Depends on Python only.
#pragma once

#include <Python.h>

namespace torchprof {

// All of this needs the GIL. There is at most one at a time.
class EvaluatorSwitch {
 public:
  // Called after the function: what it was given, and what it returned (the callback of before), which is nullptr where it raised.
  using Listener = void (*)(PyObject* callback, PyObject* before) noexcept;

  // Called before it with what it is given, while no evaluator is installed: only here, what is called in Python is not compiled.
  using Announced = void (*)(PyObject* callback) noexcept;

  EvaluatorSwitch(PyObject* built_in, Listener listener, Announced announced = nullptr);
  ~EvaluatorSwitch();
  EvaluatorSwitch(const EvaluatorSwitch&) = delete;
  EvaluatorSwitch& operator=(const EvaluatorSwitch&) = delete;

  bool is_observed() const { return method_ != nullptr; }

 private:
  PyMethodDef* method_ = nullptr;  // static in PyTorch
};

}  // namespace torchprof
