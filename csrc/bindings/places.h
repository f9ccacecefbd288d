// Where the modules of a model stand in it. A module that is registered at several places has several.
#pragma once

#include <pybind11/pybind11.h>

#include <utility>
#include <vector>

namespace torchprof::bindings {

struct Place {
  pybind11::object module;
  pybind11::object path;  // dotted name, as named_modules() gives it
  pybind11::object name;  // its last part
  Py_ssize_t parent;      // index of the place of the parent; -1: none
  int depth;
  Py_ssize_t same_as;  // index of the first place of this module; -1: this is it
};

// Parents before children; the children of a module at its first place only. For Python these are named tuples, which are made when it
// looks at them: made for every recording, they would have the garbage collector go through all modules.
class Places {
 public:
  Places(std::vector<Place> rows, pybind11::type type) : rows_(std::move(rows)), type_(std::move(type)) {}

  const std::vector<Place>& rows() const { return rows_; }
  pybind11::list named_tuples() const;

 private:
  std::vector<Place> rows_;
  pybind11::type type_;
};

}  // namespace torchprof::bindings
