// A module that counts the calls of a Python function with FunctionHook: hook(function), unhook() -> count.
#include "record/function_hook.h"

#include <memory>

namespace {

std::unique_ptr<torchprof::FunctionHook> hook;
long calls = 0;

PyObject* counted(PyObject* function, PyObject* const* args, size_t count, PyObject* keywords) {
  ++calls;
  return torchprof::FunctionHook::original(function, args, count, keywords);
}

PyObject* start(PyObject*, PyObject* args) {
  PyObject* function = nullptr;
  PyObject* evaluator_switch = nullptr;
  if (!PyArg_ParseTuple(args, "OO", &function, &evaluator_switch)) {
    return nullptr;
  }
  calls = 0;
  hook = std::make_unique<torchprof::FunctionHook>(function, counted, evaluator_switch);
  return PyBool_FromLong(hook->is_hooked(function));
}

PyObject* stop(PyObject*, PyObject*) {
  hook.reset();
  return PyLong_FromLong(calls);
}

PyMethodDef methods[] = {{"hook", start, METH_VARARGS, nullptr}, {"unhook", stop, METH_NOARGS, nullptr}, {nullptr, nullptr, 0, nullptr}};
PyModuleDef module = {PyModuleDef_HEAD_INIT, "function_hook", nullptr, -1, methods, nullptr, nullptr, nullptr, nullptr};

}  // namespace

PyMODINIT_FUNC PyInit_function_hook() { return PyModule_Create(&module); }
