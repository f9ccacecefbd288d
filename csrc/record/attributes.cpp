#include "record/attributes.h"

namespace torchprof {

PyTypeObject* loaded_class(const char* module, const char* name) {
  PyObject* const modules = PyImport_GetModuleDict();
  PyObject* const loaded = modules != nullptr ? PyDict_GetItemString(modules, module) : nullptr;
  PyObject* const found =
      loaded != nullptr && PyModule_Check(loaded) ? PyDict_GetItemString(PyModule_GetDict(loaded), name) : nullptr;
  return found != nullptr && PyType_Check(found) ? reinterpret_cast<PyTypeObject*>(found) : nullptr;
}

PyObject* attributes_of(PyObject* object) {
  PyObject* const attributes = Py_TYPE(object)->tp_dictoffset != 0 ? PyObject_GenericGetDict(object, nullptr) : nullptr;
  if (attributes == nullptr) {
    PyErr_Clear();
  }
  return attributes;
}

PyObject* look_up(PyObject* attributes, PyObject* name) {
  PyObject* const found = PyDict_GetItemWithError(attributes, name);
  if (found == nullptr && PyErr_Occurred() != nullptr) {
    PyErr_Clear();
  }
  return found;
}

PyObject* attribute(PyObject* object, PyObject* name) {
  PyObject* const attributes = attributes_of(object);
  if (attributes == nullptr) {
    return nullptr;
  }
  PyObject* const value = look_up(attributes, name);
  Py_DECREF(attributes);  // the object still holds it
  return value;
}

PyObject* attribute(PyObject* object, const char* name) {
  PyObject* const text = PyUnicode_FromString(name);
  if (text == nullptr) {
    PyErr_Clear();
    return nullptr;
  }
  PyObject* const value = attribute(object, text);
  Py_DECREF(text);
  return value;
}

bool has_attributes(PyObject* object) {
  PyTypeObject* const type = Py_TYPE(object);
  return type->tp_dictoffset != 0 || ((type->tp_flags & Py_TPFLAGS_HEAPTYPE) != 0 && type->tp_itemsize == 0 &&
                                      type->tp_basicsize > static_cast<Py_ssize_t>(sizeof(PyObject)));
}

}  // namespace torchprof
