// What a model holds, to be put back after it ran.
#include "record/model_state.h"

#include <pybind11/stl.h>

#include <memory>

#include "bindings/bindings.h"
#include "bindings/construct.h"

namespace torchprof::bindings {

namespace py = pybind11;
using namespace py::literals;

namespace {

PyTypeObject* as_type(const py::handle& object) {
  if (!PyType_Check(object.ptr())) {
    throw py::type_error("a type is needed");
  }
  return reinterpret_cast<PyTypeObject*>(object.ptr());
}

void make(Instance& instance, const py::object& model, const py::object& module_class, const py::tuple& others,
          const py::function& is_plain) {
  std::vector<PyTypeObject*> types;
  for (const py::handle& type : others) {
    types.push_back(as_type(type));
  }
  auto state = std::make_unique<ModelState>(as_type(module_class), std::move(types), is_plain.ptr());
  state->add(model.ptr());
  construct(instance, std::move(state));
}

std::vector<py::object> found_others(const ModelState& state) {
  std::vector<py::object> found;
  for (PyObject* const object : state.found_others()) {
    found.push_back(py::reinterpret_borrow<py::object>(object));
  }
  return found;
}

std::vector<py::object> module_classes(const ModelState& state) {
  std::vector<py::object> classes;
  for (PyTypeObject* const type : state.module_classes()) {
    classes.push_back(py::reinterpret_borrow<py::object>(reinterpret_cast<PyObject*>(type)));
  }
  return classes;
}

std::vector<py::tuple> restore(ModelState& state) {
  std::vector<py::tuple> failures;
  for (const ModelState::Failure& failure : state.restore()) {
    const py::handle object = failure.object != nullptr ? failure.object : Py_None;
    failures.push_back(py::make_tuple(py::reinterpret_borrow<py::object>(object), failure.is_gradient, failure.reason));
  }
  return failures;
}

}  // namespace

void define_model_state(py::module_& module) {
  py::class_<ModelState>(module, "ModelState")
      .def("__init__", &make, kMakes, "model"_a, "module_class"_a, "others"_a, "is_plain"_a, py::pos_only())
      .def(
          "add", [](ModelState& state, const py::object& object) { state.add(object.ptr()); }, "object"_a, py::pos_only())
      .def("found_others", &found_others)
      .def("module_classes", &module_classes)
      .def("start", &ModelState::start)
      .def("restore", &restore);
}

}  // namespace torchprof::bindings
