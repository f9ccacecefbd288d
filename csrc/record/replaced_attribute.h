// An attribute that a Python object has instead of its class's, as long as this exists. No code of Python runs when it is set or taken
// back, so no interrupt comes in between.
#pragma once

#include <Python.h>

#include <stdexcept>

namespace torchprof {

class ReplacedAttribute {
 public:
  ReplacedAttribute(PyObject* object, PyObject* name, PyObject* value)
      : object_(Py_NewRef(object)), name_(Py_NewRef(name)), value_(Py_NewRef(value)) {
    if (PyObject_GenericSetAttr(object, name, value) != 0) {
      PyErr_Clear();
      release();
      throw std::runtime_error("an attribute cannot be set");
    }
  }
  // Where the program has set another one meanwhile, that one stays.
  ~ReplacedAttribute() {
    PyObject* const attributes = PyObject_GenericGetDict(object_, nullptr);
    if (attributes != nullptr && PyDict_GetItemWithError(attributes, name_) == value_) {
      PyObject_GenericSetAttr(object_, name_, nullptr);
    }
    Py_XDECREF(attributes);
    PyErr_Clear();
    release();
  }
  ReplacedAttribute(const ReplacedAttribute&) = delete;
  ReplacedAttribute& operator=(const ReplacedAttribute&) = delete;

 private:
  void release() {
    Py_DECREF(value_);
    Py_DECREF(name_);
    Py_DECREF(object_);
  }

  PyObject* const object_;
  PyObject* const name_;
  PyObject* const value_;
};

}  // namespace torchprof
