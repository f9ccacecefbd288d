// Runs a C function wherever a Python function is called: by attribute, as a stored bound method, unbound, by super(). The function
// stays the same object with the same code, so what compares or reads it (Dynamo, torch.fx) sees no difference. Depends on Python only.
//
// Every Python function has a pointer to what runs it, `vectorcall`. From 3.12 on, the interpreter uses it whenever it is not its own.
// 3.11 runs functions itself and ignores the pointer, unless
//
//   - the type of the function is not exactly `function`: the hook gives it one derived from that; or
//   - another evaluator of frames is installed (PEP 523), as Dynamo does while it compiles and checks guards, which read that type: the
//     function has its own type then.
#pragma once

#include <Python.h>

namespace torchprof {

// All of this needs the GIL. There is at most one hook of a function at a time, and three in all.
class FunctionHook {
 public:
  // `instead` is given what the function is called with, and calls original() when it wants the function to run. A `callable` that is
  // no Python function is not hooked. Before 3.12 nothing is, unless the owner promises to call evaluator_changed().
  FunctionHook(PyObject* callable, vectorcallfunc instead, bool sees_evaluators);
  ~FunctionHook();
  FunctionHook(const FunctionHook&) = delete;
  FunctionHook& operator=(const FunctionHook&) = delete;

  bool is_hooked(PyObject* callable) const {
    return callable != nullptr && hooked_ != nullptr && callable == hooked_->function;
  }
  static bool exists();

  // To be called after the program has installed or removed an evaluator of frames: see EvaluatorSwitch.
  static void evaluator_changed() noexcept;

  // Also for a call that was on its way when the hook ended.
  static PyObject* original(PyObject* function, PyObject* const* args, size_t count, PyObject* keywords) {
    const Hooked& hook = function == hooks_[0].function ? hooks_[0] : hooks_[function == hooks_[1].function ? 1 : 2];
    return hook.original(function, args, count, keywords);
  }

 private:
  struct Hooked {
    PyObject* function;  // owned while the hook exists, and only compared afterwards
    vectorcallfunc original;
    bool exists;
  };
  static inline Hooked hooks_[3] = {};

  Hooked* hooked_ = nullptr;
};

}  // namespace torchprof
