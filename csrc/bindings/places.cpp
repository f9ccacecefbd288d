#include "bindings/places.h"

#include <unordered_map>

#include "bindings/attributes.h"
#include "bindings/bindings.h"
#include "bindings/named_tuple.h"

namespace torchprof::bindings {

namespace py = pybind11;
using namespace py::literals;

py::list Places::named_tuples() const {
  py::list made;
  for (const Place& place : rows_) {
    made.append(named_tuple(type_, 0, place.module, place.path, place.name, py::int_(place.parent), py::int_(place.depth),
                            py::int_(place.same_as)));
  }
  return made;
}

namespace {

// Raises RecursionError where Python would.
struct Recursion {
  Recursion() {
    if (Py_EnterRecursiveCall(" in a module inside modules") != 0) {
      throw py::error_already_set();
    }
  }
  ~Recursion() { Py_LeaveRecursiveCall(); }
  Recursion(const Recursion&) = delete;
  Recursion& operator=(const Recursion&) = delete;
};

class Walk {
 public:
  void visit(const py::object& module, const py::object& path, const py::object& name, Py_ssize_t parent, int depth) {
    const auto row = static_cast<Py_ssize_t>(places_.size());
    const auto [known, is_first] = first_place_.try_emplace(module.ptr(), row);
    places_.push_back({module, path, name, parent, depth, is_first ? Py_ssize_t{-1} : known->second});
    if (!is_first) {
      return;
    }
    const Recursion recursion;
    const py::object children = value_of(module.ptr(), dictionary_of(module), modules_name_.ptr());
    const bool has_path = py::len(path) != 0;
    py::object prefix;  // made for the first child
    const auto each = [&](const py::object& child_name, const py::object& child) {
      if (!child.is_none()) {
        if (has_path && !prefix) {
          prefix = joined(path, dot_);
        }
        visit(child, has_path ? joined(prefix, child_name) : child_name, child_name, row, depth + 1);
      }
    };
    if (PyDict_Check(children.ptr())) {
      // The loop runs no code of the program, so the dictionary stays as it is.
      PyObject *key = nullptr, *child = nullptr;
      for (Py_ssize_t position = 0; PyDict_Next(children.ptr(), &position, &key, &child) != 0;) {
        each(py::reinterpret_borrow<py::object>(key), py::reinterpret_borrow<py::object>(child));
      }
    } else {
      for (const py::handle item : children.attr("items")()) {
        const auto pair = item.cast<py::tuple>();
        each(pair[0], pair[1]);
      }
    }
  }

  std::vector<Place> places() { return std::move(places_); }

 private:
  static py::object joined(const py::object& left, const py::object& right) {
    PyObject* const text = PyUnicode_Concat(left.ptr(), right.ptr());
    if (text == nullptr) {
      throw py::error_already_set();
    }
    return py::reinterpret_steal<py::object>(text);
  }

  const py::str modules_name_{"_modules"}, dot_{"."};
  std::vector<Place> places_;
  std::unordered_map<PyObject*, Py_ssize_t> first_place_;
};

Places walk(const py::list& roots, const py::type& place) {
  check_fields(place, 6);
  Walk walk;
  for (const py::handle root : roots) {
    const auto [name, module] = root.cast<std::pair<py::object, py::object>>();
    walk.visit(module, name, name, -1, 0);
  }
  return Places(walk.places(), place);
}

}  // namespace

void define_places(py::module_& module) {
  py::class_<Places>(module, "Places").def("__iter__", [](const Places& places) { return py::iter(places.named_tuples()); });
  module.def("walk", &walk, "roots"_a, "place"_a, py::pos_only());
}

}  // namespace torchprof::bindings
