#include "record/function_hook.h"

namespace torchprof {
namespace {

void set_vectorcall(PyFunctionObject* function, vectorcallfunc vectorcall) {
#if PY_VERSION_HEX >= 0x030C0000
  PyFunction_SetVectorcall(function, vectorcall);  // also invalidates what the interpreter has specialized for the function
#else
  function->vectorcall = vectorcall;
#endif
}

#if PY_VERSION_HEX < 0x030C0000
PyObject* own_class(PyObject*, void*) { return Py_NewRef(reinterpret_cast<PyObject*>(&PyFunction_Type)); }

// Functions are pickled and copied by name, by their exact type.
PyObject* reduce(PyObject* function, PyObject*) { return PyObject_GetAttrString(function, "__qualname__"); }

PyGetSetDef attributes[] = {{"__class__", own_class, nullptr, nullptr, nullptr}, {nullptr, nullptr, nullptr, nullptr, nullptr}};
PyMethodDef methods[] = {{"__reduce__", reduce, METH_NOARGS, nullptr}, {nullptr, nullptr, 0, nullptr}};

// `function`, under another address.
PyTypeObject* hooked_type() {
  static PyTypeObject type;  // all zero
  if (type.tp_base == nullptr) {
    Py_SET_REFCNT(reinterpret_cast<PyObject*>(&type), 1);
    type.tp_name = PyFunction_Type.tp_name;
    type.tp_doc = PyFunction_Type.tp_doc;
    type.tp_basicsize = PyFunction_Type.tp_basicsize;
    type.tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL | Py_TPFLAGS_METHOD_DESCRIPTOR;
    type.tp_vectorcall_offset = PyFunction_Type.tp_vectorcall_offset;
    type.tp_call = PyFunction_Type.tp_call;
    type.tp_dealloc = PyFunction_Type.tp_dealloc;
    type.tp_traverse = PyFunction_Type.tp_traverse;
    type.tp_clear = PyFunction_Type.tp_clear;
    type.tp_repr = PyFunction_Type.tp_repr;
    type.tp_descr_get = PyFunction_Type.tp_descr_get;
    type.tp_dictoffset = PyFunction_Type.tp_dictoffset;
    type.tp_weaklistoffset = PyFunction_Type.tp_weaklistoffset;
    type.tp_getset = attributes;
    type.tp_methods = methods;
    type.tp_base = &PyFunction_Type;
    if (PyType_Ready(&type) != 0) {
      PyErr_Clear();
      type.tp_base = nullptr;
      return nullptr;
    }
  }
  return &type;
}

PyObject* hooked = nullptr;  // the function, borrowed from the hook
PyMethodDef* switched = nullptr;
PyCFunction original_switch = nullptr;

void choose_type() {
  if (hooked != nullptr) {
    const bool runs_itself = _PyInterpreterState_GetEvalFrameFunc(PyInterpreterState_Get()) == _PyEval_EvalFrameDefault;
    Py_SET_TYPE(hooked, runs_itself ? hooked_type() : &PyFunction_Type);
  }
}

PyObject* observed_switch(PyObject* self, PyObject* argument) {
  PyObject* const result = original_switch(self, argument);
  choose_type();
  return result;
}

bool observe_switch(PyObject* evaluator_switch) {
  if (evaluator_switch == nullptr || !PyCFunction_CheckExact(evaluator_switch)) {
    return false;
  }
  PyMethodDef* const method = reinterpret_cast<PyCFunctionObject*>(evaluator_switch)->m_ml;
  if (method->ml_flags != METH_O) {
    return false;
  }
  switched = method;
  original_switch = method->ml_meth;
  method->ml_meth = observed_switch;
  return true;
}
#endif

}  // namespace

FunctionHook::FunctionHook(PyObject* callable, vectorcallfunc instead, [[maybe_unused]] PyObject* evaluator_switch) {
  if (callable == nullptr || !PyFunction_Check(callable)) {
    return;
  }
#if PY_VERSION_HEX < 0x030C0000
  if (hooked_type() == nullptr || !observe_switch(evaluator_switch)) {
    return;
  }
  hooked = callable;
  choose_type();
#endif
  auto* const function = reinterpret_cast<PyFunctionObject*>(callable);
  original_ = function->vectorcall;
  set_vectorcall(function, instead);
  function_ = Py_NewRef(callable);
  exists_ = true;
}

FunctionHook::~FunctionHook() {
  if (function_ == nullptr) {
    return;
  }
  exists_ = false;
  set_vectorcall(reinterpret_cast<PyFunctionObject*>(function_), original_);
#if PY_VERSION_HEX < 0x030C0000
  switched->ml_meth = original_switch;
  hooked = nullptr;
  Py_SET_TYPE(function_, &PyFunction_Type);
#endif
  Py_DECREF(function_);
}

}  // namespace torchprof
