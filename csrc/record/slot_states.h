// What objects hold in `__slots__`. All of this needs the GIL.
#pragma once

#include <Python.h>

#include <vector>

namespace torchprof {

class SlotStates {
 public:
  SlotStates() = default;
  ~SlotStates();
  SlotStates(const SlotStates&) = delete;
  SlotStates& operator=(const SlotStates&) = delete;

  // Remembers what is in the slots of an object, which lives as long as this. Calls `visit` with each.
  template <typename Visit>
  void add(PyObject* object, Visit visit) {
    const size_t first = rows_.size();
    read(object);
    for (size_t row = first; row < rows_.size(); ++row) {
      if (rows_[row].value != nullptr) {
        visit(rows_[row].value);
      }
    }
  }

  void restore();

 private:
  struct Row {
    PyObject** slot;
    PyObject* value;  // an owned reference; nullptr: it was empty
  };

  void read(PyObject* object);

  std::vector<Row> rows_;
};

}  // namespace torchprof
