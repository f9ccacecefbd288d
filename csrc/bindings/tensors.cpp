// What Python cannot find out about tensors and modules without side effects.
#include "bindings/tensors.h"

#include <pybind11/stl.h>
#include <torch/csrc/autograd/python_variable.h>

#include <vector>

#include "bindings/bindings.h"
#include "record/tensor_reader.h"

namespace torchprof::bindings {

namespace py = pybind11;
using namespace py::literals;

const at::Tensor& unpack(const py::object& object) {
  if (!PyType_IsSubtype(Py_TYPE(object.ptr()), reinterpret_cast<PyTypeObject*>(THPVariableClass))) {
    throw py::type_error("a tensor is needed");
  }
  return THPVariable_Unpack(object.ptr());
}

namespace {

// Address, bytes, device type and device index of the storage of a tensor, as they are recorded.
py::tuple storage(const py::object& object) {
  Tensor row{};
  read_storage(*unpack(object).unsafeGetTensorImpl(), row);
  return py::make_tuple(row.storage, row.storage_bytes, row.device_type, row.device_index);
}

// References to a tensor and to its storage. An autograd graph that keeps one of the two adds to them.
py::tuple use_counts(const py::object& object) {
  const at::Tensor& tensor = unpack(object);
  return py::make_tuple(tensor.use_count(), tensor.unsafeGetTensorImpl()->unsafe_storage().use_count());
}

// Which of these pairs of dictionaries differ, by the identity of keys and values and by order. Values are not compared with ==,
// because there are tensors among them.
std::vector<size_t> changed(const py::list& pairs) {
  std::vector<size_t> rows;
  for (size_t row = 0; row < pairs.size(); ++row) {
    PyObject* const now = PyTuple_GET_ITEM(PyList_GET_ITEM(pairs.ptr(), row), 0);
    PyObject* const before = PyTuple_GET_ITEM(PyList_GET_ITEM(pairs.ptr(), row), 1);
    bool same = PyDict_GET_SIZE(now) == PyDict_GET_SIZE(before);
    PyObject *key_now = nullptr, *key_before = nullptr, *value_now = nullptr, *value_before = nullptr;
    Py_ssize_t at_now = 0, at_before = 0;
    while (same && PyDict_Next(now, &at_now, &key_now, &value_now) &&
           PyDict_Next(before, &at_before, &key_before, &value_before)) {
      same = key_now == key_before && value_now == value_before;
    }
    if (!same) {
      rows.push_back(row);
    }
  }
  return rows;
}

}  // namespace

void define_tensors(py::module_& module) {
  module.def("storage", &storage, "tensor"_a, py::pos_only());
  module.def("use_counts", &use_counts, "tensor"_a, py::pos_only());
  module.def("changed", &changed, "pairs"_a, py::pos_only());
}

}  // namespace torchprof::bindings
