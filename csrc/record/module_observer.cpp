#include "record/module_observer.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <new>
#include <optional>
#include <unordered_set>
#include <utility>

#include "record/find_tensors.h"
#include "record/pause.h"
#include "record/stacks.h"
#include "record/tensor_reader.h"
#include "record/thread_slot.h"
#include "trace/clock.h"

namespace torchprof {
namespace {

ternaryfunc original_call = nullptr;
PyTypeObject* module_type = nullptr;  // torch.nn.Module
ModuleObserver* observer = nullptr;   // the one that exists
std::atomic<ModuleObserver::Listener> listener{nullptr};
PyObject* on_outermost = nullptr;  // owned by the observer

bool add_found(ThreadLog& log, const Found& found, uint16_t& count) {
  for (size_t i = 0; i < found.tensors.size(); ++i) {
    if (!add_operand(log, *found.tensors[i], found.objects[i], i < found.in_containers ? 0 : kInObject)) {
      return false;
    }
    ++count;
  }
  for (PyObject* const object : found.unread) {
    if (!log.add_object(Py_TYPE(object)->tp_name, kUnknownBytes, found.unread_in_objects ? kInObject : 0)) {
      return false;
    }
    ++count;
  }
  if (found.tensors.size() >= kMaxTensors && !found.unread.empty()) {
    log.operands.drop();  // one at least
    return false;
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

// What a search found; nullopt: there was no memory for it.
using Search = std::optional<Found>;

template <typename Find>
Search search(Find find) noexcept {
  try {
    return find();
  } catch (const std::bad_alloc&) {
    return std::nullopt;
  }
}

// Calls add(), which says whether everything fitted.
template <typename Add>
void add_to(ThreadLog& log, ModuleCall& call, Add add) noexcept {
  try {
    if (!add()) {
      call.flags |= kMoreTensors;
    }
  } catch (const std::exception&) {
    call.flags |= kMoreTensors;
    log.operands.drop();
  }
}

bool is_there(ThreadLog& log, const Search& found) {
  if (!found) {
    log.operands.drop();
  }
  return found.has_value();
}

// Whether it is open now.
bool open_call(ThreadLog& log, PyObject* module, bool by_slot, const Search& inputs, const AskedStack& asked) noexcept {
  if (!log.open_call(reinterpret_cast<uint64_t>(module), Py_TYPE(module)->tp_name, !by_slot)) {
    return false;
  }
  if (ModuleCall* const call = log.opened_call()) {
    add_to(log, *call, [&] { return is_there(log, inputs) && add_found(log, *inputs, call->n_inputs); });
    call->stack = stack_of_call(log, asked);
    call->start = ticks();
  }
  return true;
}

void close_call(ThreadLog& log, int64_t now, PyObject* result, const Search& outputs) noexcept {
  if (ModuleCall* const call = log.close_call()) {
    call->end = now;
    call->outputs = log.operands.size();
    add_to(log, *call, [&] { return is_there(log, outputs) && add_result(log, result, *outputs, call->n_outputs); });
    if (result == nullptr) {
      call->flags |= kRaised;
    } else if (PyTuple_Check(result) || PyList_Check(result)) {
      call->flags |= kReturnedSequence;
    }
  }
}

void notify_listener(const Search& found) noexcept {
  if (const ModuleObserver::Listener notify = listener.load(std::memory_order_relaxed)) {
    notify(found ? found->tensors.data() : nullptr, found ? found->tensors.size() : 0);
  }
}

// Returns the generation in which the call was opened; 0: it is not recorded.
uint64_t begin_call(PyObject* module, bool by_slot, const Search& inputs) {
  if (is_paused()) {
    return 0;
  }
  const AskedStack asked = AskedStack::of_call();
  uint64_t generation = 0;
  {
    const LogWriter writer(Event::kCall);
    ThreadLog* const log = writer.log();
    if (log == nullptr || !open_call(*log, module, by_slot, inputs, asked)) {
      return 0;
    }
    generation = writer.generation();
  }
  notify_listener(inputs);
  return generation;
}

void end_call(uint64_t generation, PyObject* result) noexcept {
  const int64_t now = ticks();
  const Search outputs = search([result] {
    Found found;
    if (result != nullptr && !are_tensors(&result, 1, found)) {
      found = find_tensors(result);
    }
    return found;
  });
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

bool is_inside_a_call() {
  const LogWriter writer;
  const ThreadLog* const log = writer.log();
  return log != nullptr && log->innermost_call() != kNoRow;
}

// Whether a call that begins now is one that Python asked to be told of.
bool is_told() {
  if (on_outermost == nullptr || is_paused()) {
    return false;
  }
  const LogWriter writer;
  const ThreadLog* const log = writer.log();
  return log != nullptr && !log->is_inside_a_call();
}

// False: it raised.
bool tell(PyObject* module, bool ended) {
  PyObject* const function = on_outermost;
  if (function == nullptr) {  // the recording ended inside the call
    return true;
  }
  Py_INCREF(function);
  PyObject* const arguments[] = {module, ended ? Py_True : Py_False};
  PyObject* const result = PyObject_Vectorcall(function, arguments, 2, nullptr);
  Py_DECREF(function);
  Py_XDECREF(result);
  return result != nullptr;
}

// Calls a module, recorded. `find` returns the tensors among its inputs. Nothing around the call may forbid exceptions: a thread that
// Python ends when the interpreter does is unwound through here.
template <typename Find, typename Call>
PyObject* recorded(PyObject* module, bool by_slot, Find find, Call call) {
  const bool told = is_told();
  if (told && !tell(module, false)) {
    return nullptr;
  }
  const uint64_t generation = begin_call(module, by_slot, search(find));
  PyObject* const result = call();
  if (generation != 0) {
    end_call(generation, result);
  }
  if (told && result != nullptr && !tell(module, true)) {
    Py_DECREF(result);
    return nullptr;
  }
  return result;
}

// In the slot of classes: `module(x)`.
PyObject* observed_call(PyObject* module, PyObject* args, PyObject* kwargs) {
  return recorded(
      module, true,
      [&] {
        Found found;
        const bool is_usual = kwargs == nullptr && PyTuple_CheckExact(args) != 0;
        if (is_usual && are_tensors(&PyTuple_GET_ITEM(args, 0), static_cast<size_t>(PyTuple_GET_SIZE(args)), found)) {
          return found;
        }
        return find_arguments(args, kwargs, is_inside_a_call());
      },
      [&] { return original_call(module, args, kwargs); });
}

// Whether the function of nn.Module runs because of a call that the slot has seen, or while nothing is recorded.
bool is_known(PyObject* module) {
  const LogWriter writer;
  ThreadLog* const log = writer.log();
  return log == nullptr || log->enter_call(reinterpret_cast<uint64_t>(module));
}

// In place of the function of nn.Module: `module.__call__(x)`, `nn.Module.__call__(module, x)`, and what the slot calls.
PyObject* observed_function(PyObject* function, PyObject* const* args, size_t count, PyObject* keywords) {
  const auto call = [&] { return FunctionHook::original(function, args, count, keywords); };
  const Py_ssize_t positional = PyVectorcall_NARGS(count);
  if (positional == 0 || !PyObject_TypeCheck(args[0], module_type) || is_known(args[0])) {
    return call();
  }
  if (observer != nullptr) {
    observer->observe_again();
  }
  const Py_ssize_t all = positional + (keywords != nullptr ? PyTuple_GET_SIZE(keywords) : 0);
  return recorded(
      args[0], false, [&] { return find_arguments(args + 1, static_cast<size_t>(all - 1), is_inside_a_call()); }, call);
}

// What calling an instance runs, a borrowed reference.
PyObject* function_of(PyTypeObject* type) {
  static PyObject* const name = PyUnicode_InternFromString("__call__");
  return _PyType_Lookup(type, name);
}

// Reads the dictionary behind __subclasses__(), whose values are weak references, as a call of it takes ten times as long. `visit` runs
// no code of the program, so the dictionary stays as it is.
template <typename Visit>
void for_each_subclass(PyTypeObject* type, Visit visit) {
  auto* const subclasses = static_cast<PyObject*>(type->tp_subclasses);
  if (subclasses == nullptr || !PyDict_Check(subclasses)) {
    return;
  }
  PyObject* key = nullptr;
  PyObject* reference = nullptr;
  for (Py_ssize_t position = 0; PyDict_Next(subclasses, &position, &key, &reference) != 0;) {
#if PY_VERSION_HEX >= 0x030D0000
    PyObject* subclass = nullptr;
    if (PyWeakref_GetRef(reference, &subclass) == 1) {
      visit(reinterpret_cast<PyTypeObject*>(subclass));
      Py_DECREF(subclass);  // its modules and bases hold it
    }
#else
    if (PyObject* const subclass = PyWeakref_GET_OBJECT(reference); subclass != Py_None) {
      visit(reinterpret_cast<PyTypeObject*>(subclass));
    }
#endif
  }
}

Py_ssize_t count_of_subclasses(const PyTypeObject* type) {
  auto* const subclasses = static_cast<PyObject*>(type->tp_subclasses);
  return subclasses != nullptr && PyDict_Check(subclasses) ? PyDict_GET_SIZE(subclasses) : 0;
}

// A class and all below it. A class with several bases may be met again; to know that of every class would cost more than to look at it
// again.
template <typename Visit>
void for_each_class(PyTypeObject* type, const Visit& visit) {
  visit(type);
  for_each_subclass(type, [&](PyTypeObject* subclass) { for_each_class(subclass, visit); });
}

// Names of classes, each once.
class Names {
 public:
  void add(PyTypeObject* type) {
    if (named_.insert(type).second) {
      names_.emplace_back(type->tp_name);
    }
  }
  std::vector<std::string> take() { return std::move(names_); }

 private:
  std::vector<std::string> names_;
  std::unordered_set<PyTypeObject*> named_;
};

}  // namespace

void ModuleObserver::set_listener(Listener new_listener) noexcept { listener = new_listener; }

ModuleObserver::ModuleObserver(PyTypeObject* module_class, bool sees_evaluators, PyObject* on_outermost_call)
    : module_class_(module_class), function_(function_of(module_class), observed_function, sees_evaluators) {
  module_type = module_class;
  observer = this;
  Py_XINCREF(on_outermost_call);
  on_outermost = on_outermost_call;
  original_call = module_class->tp_call;
  try {
    walk();
  } catch (...) {
    forget();
    throw;
  }
}

void ModuleObserver::observe_new_classes() { walk(); }

void ModuleObserver::observe_again() {
  if (module_class_->tp_call == original_call && function_.is_hooked(function_of(module_class_))) {
    walk();
  }
}

// Replaces only slots that hold the function of nn.Module, so that observed_call() knows which function to call. A class with another
// function keeps it, but its subclasses are visited.
void ModuleObserver::walk() {
  std::vector<Seen> now;
  for_each_class(module_class_, [&now](PyTypeObject* type) { now.push_back({type, count_of_subclasses(type)}); });
  for (const Seen& seen : now) {
    if (seen.type->tp_call == original_call) {
      seen.type->tp_call = observed_call;
    }
    Py_INCREF(seen.type);
  }
  seen_.swap(now);
  for (const Seen& seen : now) {
    Py_DECREF(seen.type);  // it lives on: it is among those of now
  }
}

bool ModuleObserver::misses_calls_of(PyTypeObject* type) const {
  return type->tp_call != observed_call && !function_.is_hooked(function_of(type));
}

// Goes through the classes in a row: from one to the next by their bases, each would have to be waited for.
std::vector<std::string> ModuleObserver::unobserved_classes() const {
  Names names;
  const auto look_at = [&](PyTypeObject* type) {
    if (misses_calls_of(type)) {
      names.add(type);
    }
  };
  for (const Seen& seen : seen_) {
    look_at(seen.type);
    if (count_of_subclasses(seen.type) != seen.subclasses) {
      for_each_subclass(seen.type, [&](PyTypeObject* subclass) { for_each_class(subclass, look_at); });
    }
  }
  return names.take();
}

std::vector<std::string> ModuleObserver::observed_classes(PyTypeObject* module_class) {
  Names names;
  for_each_class(module_class, [&](PyTypeObject* type) {
    if (type->tp_call == observed_call) {
      names.add(type);
    }
  });
  return names.take();
}

ModuleObserver::~ModuleObserver() { forget(); }

void ModuleObserver::forget() noexcept {
  observer = nullptr;
  Py_CLEAR(on_outermost);
  for (const Seen& seen : seen_) {
    // Assigning __call__ to a class sets its slot to another function, which stays.
    if (seen.type->tp_call == observed_call) {
      seen.type->tp_call = original_call;
    }
  }
  for (const Seen& seen : seen_) {
    Py_DECREF(seen.type);
  }
}

}  // namespace torchprof
