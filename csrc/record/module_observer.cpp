#include "record/module_observer.h"

#include <c10/util/SmallVector.h>
#include <torch/csrc/autograd/python_variable.h>

#include <algorithm>
#include <atomic>
#include <unordered_set>

#include "record/tensor_reader.h"
#include "record/thread_slot.h"
#include "trace/clock.h"

namespace torchprof {
namespace {

using Tensors = c10::SmallVector<const c10::TensorImpl*, 16>;

constexpr int kMaxDepth = 16;         // of containers inside containers
constexpr size_t kMaxTensors = 4096;  // of one call

PyObject* fields_name = nullptr;  // "__dataclass_fields__", interned
ternaryfunc original_call = nullptr;
PyTypeObject* module_type = nullptr;  // torch.nn.Module
ModuleObserver* observer = nullptr;   // the one that exists
std::atomic<ModuleObserver::Listener> listener{nullptr};

bool is_tensor(PyObject* object) {
  return PyType_IsSubtype(Py_TYPE(object), reinterpret_cast<PyTypeObject*>(THPVariableClass));
}

// The tensors inside the arguments or the result of a module, in order. Runs no code of the program: containers are read through their
// C structure, and fields of dataclasses through the attribute lookup of `object`.
void find_tensors(PyObject* object, Tensors& found, int depth = 0) {
  if (object == Py_None || depth > kMaxDepth || found.size() >= kMaxTensors) {
    return;
  }
  if (is_tensor(object)) {
    const c10::TensorImpl* const tensor = THPVariable_Unpack(object).unsafeGetTensorImpl();
    if (is_readable(tensor)) {
      found.push_back(tensor);
    }
  } else if (PyTuple_Check(object)) {
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(object); ++i) {
      find_tensors(PyTuple_GET_ITEM(object, i), found, depth + 1);
    }
  } else if (PyList_Check(object)) {
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(object); ++i) {
      find_tensors(PyList_GET_ITEM(object, i), found, depth + 1);
    }
  } else if (PyDict_Check(object)) {
    PyObject* key = nullptr;
    PyObject* value = nullptr;
    for (Py_ssize_t position = 0; PyDict_Next(object, &position, &key, &value);) {
      find_tensors(value, found, depth + 1);
    }
  } else if (PyObject* const fields = _PyType_Lookup(Py_TYPE(object), fields_name); fields != nullptr && PyDict_Check(fields)) {
    PyObject* name = nullptr;
    PyObject* field = nullptr;
    for (Py_ssize_t position = 0; PyDict_Next(fields, &position, &name, &field);) {
      if (PyObject* const value = PyObject_GenericGetAttr(object, name)) {
        find_tensors(value, found, depth + 1);
        Py_DECREF(value);  // the object still holds it
      } else {
        PyErr_Clear();
      }
    }
  }
}

bool add_found(ThreadLog& log, const Tensors& found, uint16_t& count) {
  for (const c10::TensorImpl* const tensor : found) {
    if (!add_operand(log, *tensor)) {
      return false;
    }
    ++count;
  }
  return found.size() < kMaxTensors;
}

void open_call(ThreadLog& log, PyObject* module, bool by_slot, const Tensors& inputs) {
  if (ModuleCall* const call = log.open_call(reinterpret_cast<uint64_t>(module), Py_TYPE(module)->tp_name, !by_slot)) {
    if (!add_found(log, inputs, call->n_inputs)) {
      call->flags |= kMoreTensors;
    }
    call->start = ticks();
  }
}

void close_call(ThreadLog& log, int64_t now, PyObject* result, const Tensors& outputs) {
  if (ModuleCall* const call = log.close_call()) {
    call->end = now;
    call->outputs = log.operands.size();
    if (!add_found(log, outputs, call->n_outputs)) {
      call->flags |= kMoreTensors;
    }
    if (result == nullptr) {
      call->flags |= kRaised;
    } else if (PyTuple_Check(result) || PyList_Check(result)) {
      call->flags |= kReturnedSequence;
    }
  }
}

void notify_listener(const Tensors& tensors) {
  if (const ModuleObserver::Listener notify = listener.load(std::memory_order_relaxed)) {
    notify(tensors.data(), tensors.size());
  }
}

// Returns the generation in which the call was opened; 0: it is not recorded.
uint64_t begin_call(PyObject* module, bool by_slot, const Tensors& inputs) {
  uint64_t generation = 0;
  {
    const LogWriter writer;
    ThreadLog* const log = writer.log();
    if (log == nullptr) {
      return 0;
    }
    open_call(*log, module, by_slot, inputs);
    generation = writer.generation();
  }
  notify_listener(inputs);
  return generation;
}

void end_call(uint64_t generation, PyObject* result) {
  const int64_t now = ticks();
  Tensors outputs;
  if (result != nullptr) {
    find_tensors(result, outputs);
  }
  {
    const LogWriter writer;
    ThreadLog* const log = writer.log();
    if (log == nullptr || writer.generation() != generation) {
      return;  // the recording ended inside the call
    }
    close_call(*log, now, result, outputs);
  }
  notify_listener(outputs);
}

// Calls a module, recorded. `find` adds the tensors among its inputs.
template <typename Find, typename Call>
PyObject* recorded(PyObject* module, bool by_slot, Find find, Call call) {
  uint64_t generation = 0;
  try {
    Tensors inputs;
    find(inputs);
    generation = begin_call(module, by_slot, inputs);
  } catch (...) {
  }
  PyObject* const result = call();
  if (generation != 0) {
    try {
      end_call(generation, result);
    } catch (...) {
    }
  }
  return result;
}

// In the slot of classes: `module(x)`.
PyObject* observed_call(PyObject* module, PyObject* args, PyObject* kwargs) noexcept {
  const auto find = [&](Tensors& inputs) {
    find_tensors(args, inputs);
    if (kwargs != nullptr) {
      find_tensors(kwargs, inputs);
    }
  };
  return recorded(module, true, find, [&] { return original_call(module, args, kwargs); });
}

// Whether the function of nn.Module runs because of a call that the slot has seen, or while nothing is recorded.
bool is_known(PyObject* module) {
  const LogWriter writer;
  ThreadLog* const log = writer.log();
  return log == nullptr || log->enter_call(reinterpret_cast<uint64_t>(module));
}

// In place of the function of nn.Module: `module.__call__(x)`, `nn.Module.__call__(module, x)`, and what the slot calls.
PyObject* observed_function(PyObject* function, PyObject* const* args, size_t count, PyObject* keywords) noexcept {
  const auto call = [&] { return FunctionHook::original(function, args, count, keywords); };
  const Py_ssize_t positional = PyVectorcall_NARGS(count);
  if (positional == 0 || !PyObject_TypeCheck(args[0], module_type) || is_known(args[0])) {
    return call();
  }
  if (observer != nullptr) {
    observer->observe_again();
  }
  const auto find = [&](Tensors& inputs) {
    const Py_ssize_t all = positional + (keywords != nullptr ? PyTuple_GET_SIZE(keywords) : 0);
    for (Py_ssize_t i = 1; i < all; ++i) {
      find_tensors(args[i], inputs);
    }
  };
  return recorded(args[0], false, find, call);
}

// What calling an instance runs, a borrowed reference.
PyObject* function_of(PyTypeObject* type) {
  static PyObject* const name = PyUnicode_InternFromString("__call__");
  return _PyType_Lookup(type, name);
}

template <typename Visit>
void for_each_subclass(PyTypeObject* type, Visit visit) {
  if (type->tp_subclasses == nullptr) {
    return;  // most classes have none, and calling __subclasses__() takes ten times as long as this check
  }
  PyObject* const subclasses = PyObject_CallMethod(reinterpret_cast<PyObject*>(type), "__subclasses__", nullptr);
  if (subclasses == nullptr) {
    PyErr_Clear();
    return;
  }
  for (Py_ssize_t i = 0; i < PyList_GET_SIZE(subclasses); ++i) {
    visit(reinterpret_cast<PyTypeObject*>(PyList_GET_ITEM(subclasses, i)));
  }
  Py_DECREF(subclasses);
}

// The names of the nn.Module classes for which this holds.
template <typename Condition>
std::vector<std::string> classes(PyTypeObject* module_class, Condition condition) {
  std::vector<std::string> names;
  std::unordered_set<PyTypeObject*> seen;
  const auto visit = [&](auto& self, PyTypeObject* type) -> void {
    if (seen.insert(type).second) {
      if (condition(type)) {
        names.emplace_back(type->tp_name);
      }
      for_each_subclass(type, [&](PyTypeObject* subclass) { self(self, subclass); });
    }
  };
  visit(visit, module_class);
  return names;
}

}  // namespace

void ModuleObserver::set_listener(Listener new_listener) noexcept { listener = new_listener; }

ModuleObserver::ModuleObserver(PyTypeObject* module_class, PyObject* evaluator_switch)
    : module_class_(module_class), function_(function_of(module_class), observed_function, evaluator_switch) {
  if (fields_name == nullptr) {
    fields_name = PyUnicode_InternFromString("__dataclass_fields__");
  }
  module_type = module_class;
  observer = this;
  original_call = module_class->tp_call;
  walk(module_class);
}

void ModuleObserver::observe_new_classes() { walk(module_class_); }

void ModuleObserver::observe_again() {
  if (module_class_->tp_call == original_call && function_.is_hooked(function_of(module_class_))) {
    walk(module_class_);
  }
}

// Replaces only slots that hold the function of nn.Module, so that observed_call() knows which function to call. A class with another
// function keeps it, but its subclasses are visited.
void ModuleObserver::walk(PyTypeObject* type) {
  if (type->tp_call == original_call) {
    type->tp_call = observed_call;
    if (std::find(observed_.begin(), observed_.end(), type) == observed_.end()) {
      Py_INCREF(type);
      observed_.push_back(type);
    }
  }
  for_each_subclass(type, [this](PyTypeObject* subclass) { walk(subclass); });
}

std::vector<std::string> ModuleObserver::unobserved_classes() const {
  return classes(module_class_, [this](PyTypeObject* type) {
    return type->tp_call != observed_call && !function_.is_hooked(function_of(type));
  });
}

std::vector<std::string> ModuleObserver::observed_classes(PyTypeObject* module_class) {
  return classes(module_class, [](PyTypeObject* type) { return type->tp_call == observed_call; });
}

ModuleObserver::~ModuleObserver() {
  observer = nullptr;
  for (PyTypeObject* const type : observed_) {
    // Assigning __call__ to a class sets its slot to another function, which stays.
    if (type->tp_call == observed_call) {
      type->tp_call = original_call;
    }
    Py_DECREF(type);
  }
}

}  // namespace torchprof
