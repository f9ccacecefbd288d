// Finds the parameters, gradients and buffers of a model. In C++, because it is done at the start and at the end of every recording.
#include "bindings/held.h"

#include <pybind11/stl.h>
#include <torch/csrc/autograd/python_variable.h>

#include <string>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include "bindings/attributes.h"
#include "bindings/bindings.h"
#include "bindings/construct.h"
#include "bindings/places.h"
#include "record/blocks_met.h"
#include "record/find_tensors.h"
#include "record/tensor_reader.h"
#include "record/unusual_tensors.h"

namespace torchprof::bindings {
namespace {

namespace py = pybind11;
using namespace py::literals;

constexpr int kDeepest = 8;  // tensors in tensors

// What a program's own Python says of modules and tensors that are not like others.
struct Questions {
  py::function is_packing;    // type of modules -> bool
  py::function packed;        // module -> list of the tensors that are packed in it
  py::function has_no_shape;  // tensor -> bool
  py::function sharded;       // tensor -> kSharded or 0
};

class Finder {
 public:
  Finder(bool at_end, bool follow, Questions ask, const py::type& parameter)
      : at_end_(at_end), follow_(follow), ask_(std::move(ask)), parameter_(parameter) {}

  void visit(const py::object& module) {
    const PyTypeObject* const type = Py_TYPE(module.ptr());
    owner_ = {0, 0, reinterpret_cast<uint64_t>(module.ptr()), type->tp_name, 0, 0, 0, at_end_};
    const py::object attributes = dictionary_of(module);
    for (const py::object& tensor : values_of(module, attributes, parameters_name_)) {
      add(tensor, kParameter);
    }
    for (const py::object& tensor : values_of(module, attributes, buffers_name_)) {
      add(tensor, kBuffer);
    }
    if (!at_end_ && is_packing(module)) {  // unpacking runs ops, which a recording would show
      for (const py::handle tensor : ask_.packed(module)) {
        add_storages(THPVariable_Unpack(tensor.ptr()), tensor.ptr(), kParameter);
      }
    }
  }

  std::vector<Held> rows() { return std::move(rows_); }

 private:
  static std::vector<py::object> values_of(const py::object& module, const py::object& attributes, const py::str& name) {
    const py::object registry = value_of(module.ptr(), attributes, name.ptr());
    std::vector<py::object> values;
    if (PyDict_Check(registry.ptr())) {
      PyObject *key = nullptr, *value = nullptr;
      for (Py_ssize_t position = 0; PyDict_Next(registry.ptr(), &position, &key, &value) != 0;) {
        values.push_back(py::reinterpret_borrow<py::object>(value));
      }
    } else {  // of a ScriptModule
      for (const py::handle value : registry.attr("values")()) {
        values.push_back(py::reinterpret_borrow<py::object>(value));
      }
    }
    return values;
  }

  bool is_packing(const py::object& module) {
    const py::handle type = py::type::handle_of(module);
    const auto [found, is_new] = packing_.try_emplace(type.ptr());
    if (is_new) {
      found->second = ask_.is_packing(type).cast<bool>();
    }
    return found->second;
  }

  void add(const py::object& object, uint16_t use) {
    if (!THPVariable_Check(object.ptr())) {
      return;
    }
    const at::Tensor& tensor = THPVariable_Unpack(object.ptr());
    if (!seen_.insert(tensor.unsafeGetTensorImpl()).second) {
      return;
    }
    const PyTypeObject* const type = Py_TYPE(object.ptr());
    const bool is_plain =
        type == reinterpret_cast<PyTypeObject*>(parameter_.ptr()) || type == reinterpret_cast<PyTypeObject*>(THPVariableClass);
    if (!is_plain && ask_.has_no_shape(object).cast<bool>()) {
      return;
    }
    // A flat parameter of FSDP is a plain one with an attribute.
    const bool may_be_sharded = !is_plain || attribute(object.ptr(), flat_name_.ptr()) != nullptr;
    add_storages(tensor, object.ptr(), use | (may_be_sharded ? ask_.sharded(object).cast<uint16_t>() : uint16_t{0}));
    const at::Tensor& gradient = tensor.unsafeGetTensorImpl()->grad();
    if (use == kParameter && gradient.defined() && seen_.insert(gradient.unsafeGetTensorImpl()).second) {
      add_gradient(gradient);
    }
  }

  void add_gradient(const at::Tensor& gradient) {
    if (!gradient.unsafeGetTensorImpl()->is_python_dispatch()) {
      add_storages(gradient, nullptr, kGradient);
      return;
    }
    const auto object = py::reinterpret_steal<py::object>(THPVariable_Wrap(gradient));
    add_storages(gradient, object.ptr(), kGradient | ask_.sharded(object).cast<uint16_t>());
  }

  // The storages of a tensor, as they are recorded: a sparse tensor has several, and that of a subclass is in the tensors that it wraps.
  void add_storages(const at::Tensor& tensor, PyObject* object, uint16_t uses, int depth = 0) {
    const c10::TensorImpl* const impl = tensor.unsafeGetTensorImpl();
    if (!is_readable(impl) || depth > kDeepest) {
      return;
    }
    c10::StorageImpl* const storage = impl->unsafe_storage().unsafeGetStorageImpl();
    Tensor row{};
    read_storage(*impl, row);
    if (row.storage_bytes == 0) {  // it may consist of other tensors
      const size_t count = rows_.size();
      for (const at::Tensor& part : parts_of(*impl)) {
        add_storages(part, nullptr, uses, depth + 1);
      }
      if (object != nullptr && impl->is_python_dispatch()) {
        for (PyObject* const inner : find_inner_tensors(object).objects) {
          add_storages(THPVariable_Unpack(inner), inner, uses, depth + 1);
        }
      }
      if (rows_.size() != count) {
        return;
      }
    }
    if (storage != nullptr && follow_) {
      follow_block(*storage);
    }
    Held& held = rows_.emplace_back(owner_);
    held.address = row.storage;
    held.bytes = row.storage_bytes;
    held.uses = uses;
    held.device_type = row.device_type;
    held.device_index = row.device_index;
  }

  const bool at_end_, follow_;
  const Questions ask_;
  const py::type parameter_;
  const py::str parameters_name_{"_parameters"}, buffers_name_{"_buffers"}, flat_name_{"_is_flat_param"};
  Held owner_{};
  std::vector<Held> rows_;
  std::unordered_set<const c10::TensorImpl*> seen_;
  std::unordered_map<PyObject*, bool> packing_;
};

// Each parameter, gradient and buffer once. `follow`: the recording that begins shall see when these are freed.
HeldByModel held(const Places& places, bool at_end, bool follow, const py::type& parameter, const py::function& is_packing,
                 const py::function& packed, const py::function& has_no_shape, const py::function& sharded) {
  Finder finder(at_end, follow, {is_packing, packed, has_no_shape, sharded}, parameter);
  for (const Place& place : places.rows()) {
    if (place.same_as < 0) {
      finder.visit(place.module);
    }
  }
  return {finder.rows()};
}

}  // namespace

void define_held(py::module_& module) {
  py::class_<Held>(module, "Held")
      .def_readonly("address", &Held::address)
      .def_readonly("bytes", &Held::bytes)
      .def_readonly("module", &Held::module)
      .def_readonly("uses", &Held::uses);
  py::class_<HeldByModel>(module, "HeldByModel")
      .def("__init__", &construct_default<HeldByModel>, kMakes)
      .def_readonly("rows", &HeldByModel::rows);
  module.def("held", &held, "places"_a, py::kw_only(), "at_end"_a, "follow"_a, "parameter"_a, "is_packing"_a, "packed"_a,
             "has_no_shape"_a, "sharded"_a);
}

}  // namespace torchprof::bindings
