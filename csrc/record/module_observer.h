// Records every call of an nn.Module while it exists. The `tp_call` slot of every nn.Module class points to a C function that records
// the call and then calls the previous function of the slot. This is cheaper than a Python hook, and torch.fx and Dynamo do not see it,
// because they look at attributes. All of this needs the GIL, except set_listener().
#pragma once

#include <Python.h>

#include <cstddef>
#include <string>
#include <vector>

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

  explicit ModuleObserver(PyTypeObject* module_class);  // torch.nn.Module
  ~ModuleObserver();
  ModuleObserver(const ModuleObserver&) = delete;
  ModuleObserver& operator=(const ModuleObserver&) = delete;

  // Observes classes that were created since the last call.
  void observe_new_classes();
  // Whether the program assigned to nn.Module.__call__, as torch.fx does, which resets the slots of all classes.
  bool was_reset() const;
  // Classes that are not observed: created since the last call, with another function in their slot, or with a slot that was reset.
  std::vector<std::string> unobserved_classes() const;

  static std::vector<std::string> observed_classes(PyTypeObject* module_class);

 private:
  void walk(PyTypeObject* type);

  PyTypeObject* const module_class_;
  std::vector<PyTypeObject*> observed_;  // owned references
};

}  // namespace torchprof
