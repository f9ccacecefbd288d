#include "record/module_observer.h"

#include <algorithm>
#include <atomic>
#include <unordered_set>

#include "record/find_tensors.h"
#include "record/tensor_reader.h"
#include "record/thread_slot.h"
#include "trace/clock.h"

namespace torchprof {
namespace {

ternaryfunc original_call = nullptr;
std::atomic<ModuleObserver::Listener> listener{nullptr};

bool add_found(ThreadLog& log, const Found& found, uint16_t& count) {
  for (size_t i = 0; i < found.tensors.size(); ++i) {
    if (!add_operand(log, *found.tensors[i], found.objects[i], i < found.in_containers ? 0 : kInObject)) {
      return false;
    }
    ++count;
  }
  for (PyObject* const object : found.unread) {
    if (!log.add_object(Py_TYPE(object)->tp_name, kUnknownBytes)) {
      return false;
    }
    ++count;
  }
  return true;
}

// A result without tensors is a row too, so that the table can name its class.
bool add_result(ThreadLog& log, PyObject* result, const Found& found, uint16_t& count) {
  if (result != nullptr && result != Py_None && found.tensors.empty() && found.unread.empty()) {
    count = 1;
    return log.add_object(Py_TYPE(result)->tp_name, 0);
  }
  return add_found(log, found, count);
}

void open_call(ThreadLog& log, PyObject* module, const Found& inputs) {
  if (ModuleCall* const call = log.open_call(reinterpret_cast<uint64_t>(module), Py_TYPE(module)->tp_name)) {
    if (!add_found(log, inputs, call->n_inputs)) {
      call->flags |= kMoreTensors;
    }
    call->start = ticks();
  }
}

void close_call(ThreadLog& log, int64_t now, PyObject* result, const Found& outputs) {
  if (ModuleCall* const call = log.close_call()) {
    call->end = now;
    call->outputs = log.operands.size();
    if (!add_result(log, result, outputs, call->n_outputs)) {
      call->flags |= kMoreTensors;
    }
    if (result == nullptr) {
      call->flags |= kRaised;
    } else if (PyTuple_Check(result) || PyList_Check(result)) {
      call->flags |= kReturnedSequence;
    }
  }
}

void notify_listener(const Found& found) {
  if (const ModuleObserver::Listener notify = listener.load(std::memory_order_relaxed)) {
    notify(found.tensors.data(), found.tensors.size());
  }
}

// Returns the generation in which the call was opened; 0: it is not recorded.
uint64_t begin_call(PyObject* module, PyObject* args, PyObject* kwargs) {
  const Found inputs = find_arguments(args, kwargs);
  uint64_t generation = 0;
  {
    const LogWriter writer;
    ThreadLog* const log = writer.log();
    if (log == nullptr) {
      return 0;
    }
    open_call(*log, module, inputs);
    generation = writer.generation();
  }
  notify_listener(inputs);
  return generation;
}

void end_call(uint64_t generation, PyObject* result) {
  const int64_t now = ticks();
  const Found outputs = result != nullptr ? find_tensors(result) : Found();
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

PyObject* observed_call(PyObject* module, PyObject* args, PyObject* kwargs) noexcept {
  uint64_t generation = 0;
  try {
    generation = begin_call(module, args, kwargs);
  } catch (...) {
  }
  PyObject* const result = original_call(module, args, kwargs);
  if (generation != 0) {
    try {
      end_call(generation, result);
    } catch (...) {
    }
  }
  return result;
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

// The names of all nn.Module classes that are observed, or of those that are not.
std::vector<std::string> classes(PyTypeObject* module_class, bool observed) {
  std::vector<std::string> names;
  std::unordered_set<PyTypeObject*> seen;
  const auto visit = [&](auto& self, PyTypeObject* type) -> void {
    if (seen.insert(type).second) {
      if ((type->tp_call == observed_call) == observed) {
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

ModuleObserver::ModuleObserver(PyTypeObject* module_class) : module_class_(module_class) {
  original_call = module_class->tp_call;
  walk(module_class);
}

void ModuleObserver::observe_new_classes() { walk(module_class_); }

bool ModuleObserver::was_reset() const { return module_class_->tp_call == original_call; }

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

std::vector<std::string> ModuleObserver::unobserved_classes() const { return classes(module_class_, false); }

std::vector<std::string> ModuleObserver::observed_classes(PyTypeObject* module_class) { return classes(module_class, true); }

ModuleObserver::~ModuleObserver() {
  for (PyTypeObject* const type : observed_) {
    // Assigning __call__ to a class sets its slot to another function, which stays.
    if (type->tp_call == observed_call) {
      type->tp_call = original_call;
    }
    Py_DECREF(type);
  }
}

}  // namespace torchprof
