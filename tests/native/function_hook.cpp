// A module that counts the calls of a Python function with FunctionHook: hook(function, switch), unhook() -> (calls, calls of switch).
#include "record/function_hook.h"
#include "record/evaluator_switch.h"

#include <memory>

namespace {

std::unique_ptr<torchprof::EvaluatorSwitch> evaluator_switch;
std::unique_ptr<torchprof::FunctionHook> hook;
long switches = 0;
long calls = 0;

void switched(PyObject*, PyObject*) noexcept {
  ++switches;
  torchprof::FunctionHook::evaluator_changed();
}

PyObject* counted(PyObject* function, PyObject* const* args, size_t count, PyObject* keywords) {
  ++calls;
  return torchprof::FunctionHook::original(function, args, count, keywords);
}

PyObject* start(PyObject*, PyObject* args) {
  PyObject* function = nullptr;
  PyObject* built_in = nullptr;
  if (!PyArg_ParseTuple(args, "OO", &function, &built_in)) {
    return nullptr;
  }
  calls = switches = 0;
  evaluator_switch = std::make_unique<torchprof::EvaluatorSwitch>(built_in, switched);
  hook = std::make_unique<torchprof::FunctionHook>(function, counted, evaluator_switch->is_observed());
  return PyBool_FromLong(hook->is_hooked(function));
}

PyObject* stop(PyObject*, PyObject*) {
  hook.reset();
  evaluator_switch.reset();
  return Py_BuildValue("ll", calls, switches);
}

PyMethodDef methods[] = {
    {"hook", start, METH_VARARGS, nullptr}, {"unhook", stop, METH_NOARGS, nullptr}, {nullptr, nullptr, 0, nullptr}};
PyModuleDef module = {PyModuleDef_HEAD_INIT, "function_hook", nullptr, -1, methods, nullptr, nullptr, nullptr, nullptr};

}  // namespace

PyMODINIT_FUNC PyInit_function_hook() { return PyModule_Create(&module); }
