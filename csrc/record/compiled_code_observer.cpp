#include "record/compiled_code_observer.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "record/function_hook.h"
#include "record/thread_slot.h"

namespace torchprof {
namespace {

uint64_t outside = 0;               // see outside_calls()
std::vector<PyObject*> evaluators;  // Dynamo's callbacks that were seen, owned references
PyObject* evaluator_listener = nullptr;

void note_evaluator(PyObject* callback) noexcept {
  if (callback == Py_None || evaluator_listener == nullptr ||
      std::find(evaluators.begin(), evaluators.end(), callback) != evaluators.end()) {
    return;
  }
  try {
    evaluators.push_back(callback);
  } catch (const std::bad_alloc&) {
    return;  // it is seen again
  }
  Py_INCREF(callback);
  Py_XDECREF(PyObject_CallOneArg(evaluator_listener, callback));
  PyErr_Clear();
}

// Dynamo sets its callback where compiled code begins, and None where it ends. Code inside that is not to be compiled runs between None
// and the callback of before: that is no beginning.
void evaluator_changed(PyObject* callback, PyObject* before) noexcept {
  thread_local PyObject* suspended = nullptr;  // only compared
  thread_local int32_t suspended_in = kNoRow;
  FunctionHook::evaluator_changed();
  const LogWriter writer;
  ThreadLog* const log = writer.log();
  if (log == nullptr) {
    return;
  }
  if (callback == Py_None) {
    suspended = before != Py_None ? before : nullptr;
    suspended_in = log->innermost_call();
  } else if (!PyBool_Check(callback) && (callback != suspended || suspended_in != log->innermost_call()) &&
             !log->mark_compiled()) {
    ++outside;
  }
}

}  // namespace

CompiledCodeObserver::CompiledCodeObserver(PyObject* evaluator_switch, PyObject* on_evaluator)
    : switch_(evaluator_switch, evaluator_changed, note_evaluator) {
  outside = 0;
  Py_XINCREF(on_evaluator);
  evaluator_listener = on_evaluator;
}

uint64_t CompiledCodeObserver::outside_calls() noexcept { return outside; }

void CompiledCodeObserver::note() noexcept {
  const LogWriter writer;
  ThreadLog* const log = writer.log();
  if (log != nullptr && !log->mark_compiled()) {
    ++outside;
  }
}

CompiledCodeObserver::~CompiledCodeObserver() {
  Py_CLEAR(evaluator_listener);
  for (PyObject* const evaluator : std::exchange(evaluators, {})) {
    Py_DECREF(evaluator);
  }
}

}  // namespace torchprof
