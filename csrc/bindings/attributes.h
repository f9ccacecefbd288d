// The attributes of a module, past what its class does when one is asked for.
#pragma once

#include <pybind11/pybind11.h>

#include "record/attributes.h"

namespace torchprof::bindings {

// Nothing where it has none.
inline pybind11::object dictionary_of(const pybind11::object& module) {
  return pybind11::reinterpret_steal<pybind11::object>(attributes_of(module.ptr()));
}

// A borrowed reference; nullptr where there is none.
inline PyObject* value_in(const pybind11::object& dictionary, PyObject* name) {
  return dictionary ? look_up(dictionary.ptr(), name) : nullptr;
}

// An attribute of the module's own, or what its class makes of the name: a ScriptModule has objects of other types.
inline pybind11::object value_of(PyObject* module, const pybind11::object& dictionary, PyObject* name) {
  if (PyObject* const found = value_in(dictionary, name)) {
    return pybind11::reinterpret_borrow<pybind11::object>(found);
  }
  PyObject* const found = PyObject_GetAttr(module, name);
  if (found == nullptr) {
    throw pybind11::error_already_set();
  }
  return pybind11::reinterpret_steal<pybind11::object>(found);
}

}  // namespace torchprof::bindings
