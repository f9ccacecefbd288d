// Sees every call of an nn.Module while it exists: the `tp_call` slot of the nn.Module classes points at a C function that
// records the call and then calls what the slot held before. Cheaper than any Python hook, and invisible to hooks,
// to torch.fx and to Dynamo, which look at attributes. Everything here needs the GIL.
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
  // Told when a call has begun or ended, of its inputs or outputs.
  using Listener = void (*)(const c10::TensorImpl* const* tensors, size_t count) noexcept;

  explicit ModuleObserver(PyTypeObject* module_class, Listener listener = nullptr);  // torch.nn.Module
  ~ModuleObserver();
  ModuleObserver(const ModuleObserver&) = delete;
  ModuleObserver& operator=(const ModuleObserver&) = delete;

  void observe_new_classes();                        // those created since the last look
  bool was_reset() const;  // the program assigned to nn.Module.__call__, as torch.fx does: every slot is what it was
  std::vector<std::string> unobserved_classes() const;  // created since, with a slot of their own, or reset meanwhile

  static std::vector<std::string> observed_classes(PyTypeObject* module_class);

 private:
  void walk(PyTypeObject* type);

  PyTypeObject* const module_class_;
  std::vector<PyTypeObject*> observed_;  // owned references
};

}  // namespace torchprof
