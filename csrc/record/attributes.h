// The attributes of objects, read where they lie in memory: no code of the program runs. All of this needs the GIL.
#pragma once

#include <Python.h>
#include <structmember.h>

namespace torchprof {

// A class that is found only if its module is loaded; nullptr if it is not. The reference is borrowed.
PyTypeObject* loaded_class(const char* module, const char* name);
// The dictionary of an object, a new reference; nullptr, without an error, where it has none.
PyObject* attributes_of(PyObject* object);
// What stands in it under a name, a borrowed reference; nullptr, without an error, where nothing does.
PyObject* look_up(PyObject* attributes, PyObject* name);
// The value of an attribute that lies in the object's dictionary; nullptr if it does not. The reference is borrowed.
PyObject* attribute(PyObject* object, PyObject* name);
PyObject* attribute(PyObject* object, const char* name);
bool has_attributes(PyObject* object);

// Visits the values of `__slots__`, and then those of the object's dictionary.
template <typename Visit>
void for_each_attribute(PyObject* object, Visit visit) {
  PyTypeObject* const type = Py_TYPE(object);
  for (Py_ssize_t i = type->tp_mro != nullptr ? PyTuple_GET_SIZE(type->tp_mro) : 0; i-- > 0;) {
    auto* const base = reinterpret_cast<PyTypeObject*>(PyTuple_GET_ITEM(type->tp_mro, i));
    if ((base->tp_flags & Py_TPFLAGS_HEAPTYPE) == 0 || base->tp_members == nullptr) {
      continue;
    }
    for (const PyMemberDef* member = base->tp_members; member->name != nullptr; ++member) {
      if (member->type == T_OBJECT_EX) {
        if (PyObject* const value = *reinterpret_cast<PyObject**>(reinterpret_cast<char*>(object) + member->offset)) {
          visit(value);
        }
      }
    }
  }
  PyObject* const dict = attributes_of(object);
  if (dict == nullptr) {
    return;
  }
  PyObject* key = nullptr;
  PyObject* value = nullptr;
  for (Py_ssize_t position = 0; PyDict_Next(dict, &position, &key, &value);) {
    visit(value);
  }
  Py_DECREF(dict);  // the object still holds it
}

}  // namespace torchprof
