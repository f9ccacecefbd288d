#include "record/slot_states.h"

#include <structmember.h>

#include <utility>

namespace torchprof {

SlotStates::~SlotStates() {
  for (const Row& row : rows_) {
    Py_XDECREF(row.value);
  }
}

void SlotStates::read(PyObject* object) {
  const PyObject* const bases = Py_TYPE(object)->tp_mro;
  for (Py_ssize_t i = 0; bases != nullptr && i < PyTuple_GET_SIZE(bases); ++i) {
    const auto* const base = reinterpret_cast<PyTypeObject*>(PyTuple_GET_ITEM(bases, i));
    if ((base->tp_flags & Py_TPFLAGS_HEAPTYPE) == 0 || base->tp_members == nullptr) {
      continue;
    }
    for (const PyMemberDef* member = base->tp_members; member->name != nullptr; ++member) {
      if (member->type == T_OBJECT_EX && (member->flags & READONLY) == 0) {
        auto* const slot = reinterpret_cast<PyObject**>(reinterpret_cast<char*>(object) + member->offset);
        Py_XINCREF(*slot);
        rows_.push_back({slot, *slot});
      }
    }
  }
}

void SlotStates::restore() {
  std::vector<PyObject*> replaced;  // released last: that may run code of the program
  for (const Row& row : rows_) {
    if (*row.slot != row.value) {
      Py_XINCREF(row.value);
      replaced.push_back(std::exchange(*row.slot, row.value));
    }
  }
  for (PyObject* const value : replaced) {
    Py_XDECREF(value);
  }
}

}  // namespace torchprof
