#include "record/function_hook.h"

#include <algorithm>
#include <iterator>

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
#endif

}  // namespace

FunctionHook::FunctionHook(PyObject* callable, vectorcallfunc instead, [[maybe_unused]] bool sees_evaluators) {
  if (callable == nullptr || !PyFunction_Check(callable)) {
    return;
  }
#if PY_VERSION_HEX < 0x030C0000
  if (hooked_type() == nullptr || !sees_evaluators) {
    return;
  }
#endif
  // The same function has the same place again, for the sake of calls that are on their way.
  const auto is_free = [](const Hooked& hook) { return !hook.exists; };
  Hooked* place = std::find_if(std::begin(hooks_), std::end(hooks_),
                               [&](const Hooked& hook) { return is_free(hook) && hook.function == callable; });
  if (place == std::end(hooks_)) {
    place = std::find_if(std::begin(hooks_), std::end(hooks_),
                         [&](const Hooked& hook) { return is_free(hook) && hook.function == nullptr; });
  }
  if (place == std::end(hooks_)) {
    place = std::find_if(std::begin(hooks_), std::end(hooks_), is_free);
  }
  if (place == std::end(hooks_)) {
    return;
  }
  auto* const function = reinterpret_cast<PyFunctionObject*>(callable);
  *place = {Py_NewRef(callable), function->vectorcall, true};
  hooked_ = place;
  evaluator_changed();
  set_vectorcall(function, instead);
}

bool FunctionHook::exists() {
  return std::any_of(std::begin(hooks_), std::end(hooks_), [](const Hooked& hook) { return hook.exists; });
}

void FunctionHook::evaluator_changed() noexcept {
#if PY_VERSION_HEX < 0x030C0000
  const bool runs_itself = _PyInterpreterState_GetEvalFrameFunc(PyInterpreterState_Get()) == _PyEval_EvalFrameDefault;
  for (const Hooked& hook : hooks_) {
    if (hook.exists) {
      Py_SET_TYPE(hook.function, runs_itself ? hooked_type() : &PyFunction_Type);
    }
  }
#endif
}

FunctionHook::~FunctionHook() {
  if (hooked_ == nullptr) {
    return;
  }
  hooked_->exists = false;
  set_vectorcall(reinterpret_cast<PyFunctionObject*>(hooked_->function), hooked_->original);
#if PY_VERSION_HEX < 0x030C0000
  Py_SET_TYPE(hooked_->function, &PyFunction_Type);
#endif
  Py_DECREF(hooked_->function);
}

}  // namespace torchprof
