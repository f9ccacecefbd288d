// Records every call of an nn.Module while it exists. Calls go by two ways, and each call is recorded once:
//
//   module(x)                       the `tp_call` slot of its class      also of classes with a __call__ of their own
//   module.__call__(x), super(),    the function nn.Module.__call__      also of classes that were made since, or whose
//   nn.Module.__call__(module, x)                                        slot was reset
//
// In both places stands a C function that records the call and then calls what was there before. This is cheaper than a Python hook,
// and torch.fx and Dynamo do not see it, because they look at attributes. All of this needs the GIL, except set_listener().
#pragma once

#include <Python.h>

#include <cstddef>
#include <string>
#include <vector>

#include "record/function_hook.h"

namespace c10 {
struct TensorImpl;
}

namespace torchprof {

class ModuleObserver {
 public:
  // Called with the inputs of a call after its row was opened, and with its outputs after its row was closed.
  using Listener = void (*)(const c10::TensorImpl* const* tensors, size_t count) noexcept;

  // There is at most one, for calls on all threads. nullptr: none. It may still be called shortly after another one was set.
  static void set_listener(Listener listener) noexcept;

  // `module_class`: torch.nn.Module. `sees_evaluators`: see FunctionHook. `on_outermost`: a function of Python that is called with the
  // module and False before, and with True after each call that is inside no other on its thread, where nothing was raised; what it
  // raises itself, the call raises. It may end the recording. nullptr: none.
  ModuleObserver(PyTypeObject* module_class, bool sees_evaluators, PyObject* on_outermost = nullptr);
  ~ModuleObserver();
  ModuleObserver(const ModuleObserver&) = delete;
  ModuleObserver& operator=(const ModuleObserver&) = delete;

  // Observes the slots of classes that were created since the last call.
  void observe_new_classes();
  // The same where the program has assigned to nn.Module.__call__ and put it back, as torch.fx does, which resets the slots of all
  // classes without a __call__ of their own. Meanwhile their calls go by the function.
  void observe_again();
  // Classes of which calls are missed: with a __call__ of their own, and created since observe_new_classes() or with another function in
  // their slot.
  std::vector<std::string> unobserved_classes() const;

  static std::vector<std::string> observed_classes(PyTypeObject* module_class);

 private:
  struct Seen {
    PyTypeObject* type;  // owned, so that the number below it never falls
    Py_ssize_t subclasses;
  };

  void walk();
  void forget() noexcept;
  bool misses_calls_of(PyTypeObject* type) const;

  PyTypeObject* const module_class_;
  FunctionHook function_;
  std::vector<Seen> seen_;  // nn.Module and all classes below it, as of the last walk
};

}  // namespace torchprof
