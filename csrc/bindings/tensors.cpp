// What Python cannot find out about tensors and modules without side effects.
#include "bindings/tensors.h"

#include <torch/csrc/autograd/python_variable.h>

#include "bindings/bindings.h"
#include "record/find_tensors.h"
#include "record/tensor_reader.h"
#include "record/unusual_tensors.h"

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

// Its sizes, as they are recorded, and what it takes: -1 where that is not known.
py::tuple sizes_and_bytes(const py::object& object) {
  const c10::TensorImpl& tensor = *unpack(object).unsafeGetTensorImpl();
  const Reading found = read_tensor(tensor, object.ptr());
  return py::make_tuple(std::vector<int64_t>(found.dims.begin(), found.dims.end()), bytes_of(tensor, object.ptr()));
}

// The tensors in any object, the classes of what cannot be looked into, and how many of the tensors are in containers.
py::tuple tensors_in(const py::object& object) {
  const Found found = find_tensors(object.ptr());
  py::list tensors, unread;
  for (PyObject* const tensor : found.objects) {
    tensors.append(py::reinterpret_borrow<py::object>(tensor));
  }
  for (PyObject* const other : found.unread) {
    unread.append(Py_TYPE(other)->tp_name);
  }
  return py::make_tuple(tensors, unread, found.in_containers);
}

void add_use_counts(const at::Tensor& tensor, PyObject* object, std::vector<size_t>& counts, int depth = 0) {
  const c10::TensorImpl* const impl = tensor.unsafeGetTensorImpl();
  if (!is_readable(impl) || depth > 8) {
    return;
  }
  counts.push_back(tensor.use_count());
  counts.push_back(impl->unsafe_storage().unsafeGetStorageImpl() != nullptr ? impl->unsafe_storage().use_count() : 0);
  for (const at::Tensor& part : parts_of(*impl)) {
    add_use_counts(part, nullptr, counts, depth + 1);
  }
  if (object != nullptr && impl->is_python_dispatch()) {
    for (PyObject* const inner : find_inner_tensors(object).objects) {
      add_use_counts(THPVariable_Unpack(inner), inner, counts, depth + 1);
    }
  }
}

// References to a tensor, to its storage, and to the tensors that it is made of. An autograd graph that keeps it adds to them.
std::vector<size_t> use_counts(const py::object& object) {
  std::vector<size_t> counts;
  add_use_counts(unpack(object), object.ptr(), counts);
  return counts;
}

}  // namespace

void define_tensors(py::module_& module) {
  module.def("sizes_and_bytes", &sizes_and_bytes, "tensor"_a, py::pos_only());
  module.def("tensors_in", &tensors_in, "object"_a, py::pos_only());
  module.def("use_counts", &use_counts, "tensor"_a, py::pos_only());
}

}  // namespace torchprof::bindings
