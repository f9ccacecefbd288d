// What lists, dicts, sets and deques hold, by identity and in order, also those of a class that is derived from these. All of this needs
// the GIL.
#pragma once

#include <Python.h>

#include <cstddef>
#include <span>
#include <string>
#include <vector>

namespace torchprof {

enum class ContainerKind { kDict, kOrderedDict, kList, kSet, kDeque };

class ContainerStates {
 public:
  ContainerStates() = default;
  ~ContainerStates();
  ContainerStates(const ContainerStates&) = delete;
  ContainerStates& operator=(const ContainerStates&) = delete;

  // Remembers what is in it. Returns that: keys and values in turn for dicts. Valid until the next call.
  std::span<PyObject* const> add(PyObject* container, ContainerKind kind);

  // Puts it back into the containers that changed. Returns what could not be put back, and why.
  std::vector<std::string> restore();

 private:
  struct Row {
    PyObject* container;
    ContainerKind kind;
    size_t first;
    size_t count;
  };

  bool has_changed(const Row& row, std::vector<PyObject*>& now) const;
  bool put_back(const Row& row) const;

  std::vector<Row> rows_;
  std::vector<PyObject*> items_;  // of all containers. References to both are owned
};

}  // namespace torchprof
