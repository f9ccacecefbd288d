// Named tuples of Python, made without their constructor, which would be a call of Python for each.
#pragma once

#include <pybind11/pybind11.h>

#include <cstddef>
#include <string>
#include <utility>

namespace torchprof::bindings {

// One of this class, with room for more fields.
template <typename... Fields>
pybind11::object named_tuple(const pybind11::type& type, size_t more, Fields&&... fields) {
  auto* const cls = reinterpret_cast<PyTypeObject*>(type.ptr());
  PyObject* const made = cls->tp_alloc(cls, static_cast<Py_ssize_t>(sizeof...(fields) + more));
  if (made == nullptr) {
    throw pybind11::error_already_set();
  }
  Py_ssize_t at = 0;
  (PyTuple_SET_ITEM(made, at++, pybind11::object(std::forward<Fields>(fields)).release().ptr()), ...);
  return pybind11::reinterpret_steal<pybind11::object>(made);
}

// What holds nothing but names, numbers and other such objects is in no cycle: the garbage collector need not look at it.
inline pybind11::object untracked(pybind11::object made) {
  PyObject_GC_UnTrack(made.ptr());
  return made;
}

inline void check_fields(const pybind11::type& type, size_t expected) {
  if (pybind11::len(type.attr("_fields")) != expected) {
    throw pybind11::type_error(std::string(pybind11::repr(type)) + " has other fields than csrc/bindings fills in");
  }
}

}  // namespace torchprof::bindings
