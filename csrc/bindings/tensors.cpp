// What Python cannot find out about tensors and modules without side effects.
#include "bindings/tensors.h"

#include <torch/csrc/autograd/python_variable.h>

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

}  // namespace

void define_tensors(py::module_& module) {
  module.def("storage", &storage, "tensor"_a, py::pos_only());
  module.def("use_counts", &use_counts, "tensor"_a, py::pos_only());
}

}  // namespace torchprof::bindings
