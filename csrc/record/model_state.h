// The state of a model: its modules and whatever they hold, as far as that consists of modules, tensors, containers of Python's own
// and classes derived from these, and objects with attributes. It is put back where it changed. All of this needs the GIL.
#pragma once

#include <Python.h>

#include <array>
#include <cstddef>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "record/container_states.h"
#include "record/memory_guard.h"
#include "record/pointer_set.h"
#include "record/slot_states.h"
#include "record/tensor_state.h"

namespace torchprof {

class ModelState {
 public:
  // A tensor that could not be put back, or a container if there is no object.
  struct Failure {
    PyObject* object;
    bool is_gradient;
    std::string reason;
  };

  // `others`: types of objects that the caller takes care of, see found_others(). `is_plain`: called with the class of an object that
  // is nothing of the above; whether its attributes are part of the state.
  ModelState(PyTypeObject* module_class, std::vector<PyTypeObject*> others, PyObject* is_plain);
  ~ModelState();
  ModelState(const ModelState&) = delete;
  ModelState& operator=(const ModelState&) = delete;

  void add(PyObject* object);  // with all that it holds
  const std::vector<PyObject*>& found_others() const { return found_others_; }
  std::vector<PyTypeObject*> module_classes() const;  // of the modules that were found

  void start();
  std::vector<Failure> restore();

 private:
  enum class Kind { kNothing, kDict, kOrderedDict, kList, kSet, kDeque, kTuple, kModule, kTensor, kOther, kObject };

  struct TensorRow {
    PyObject* object;
    TensorState state;
    std::ptrdiff_t block;                          // of the guard; -1: no storage
    enum Role { kObject, kPart, kGradient } role;  // itself, a part of the sparse tensor `object`, or the gradient of `object`
  };
  struct Instance {
    PyObject* object;
    PyTypeObject* type;
    bool is_tensor, had_hooks, had_gradient_hooks, had_attributes;
  };

  Kind kind_of(PyTypeObject* type);
  Kind find_kind(PyTypeObject* type);
  void look_at(PyObject* object);
  bool has_plain_attributes(PyTypeObject* type) const;
  void add_attributes(PyObject* object);
  void add_module(PyObject* module);
  void add_tensor(PyObject* object);
  void add_tensor(PyObject* object, at::TensorImpl& tensor, TensorRow::Role role);
  void add_parts(PyObject* tensor);
  void keep(PyObject* object);
  void restore(const Instance& instance);
  static bool was_swapped(const TensorRow& row);
  void restore(TensorRow& row, bool has_own_version, std::vector<Failure>& failures);

  PyTypeObject* const module_class_;
  const std::vector<PyTypeObject*> others_;
  PyObject* const is_plain_;  // an owned reference
  std::unordered_map<PyTypeObject*, Kind> kinds_;
  std::array<std::pair<PyTypeObject*, Kind>, 256> recent_kinds_{};  // by the hash of the type
  PointerSet seen_;                                                 // objects, and tensors that have none
  std::vector<PyObject*> pending_;
  std::vector<PyObject*> kept_;  // owned references
  std::vector<PyObject*> found_others_;
  ContainerStates containers_;
  SlotStates slots_;
  MemoryGuard guard_;
  std::vector<size_t> buffers_;  // rows of the guard
  bool is_compiled_ = false;
  std::vector<Instance> instances_;
  std::vector<TensorRow> tensors_;
};

}  // namespace torchprof
