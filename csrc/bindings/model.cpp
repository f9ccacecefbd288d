// Describes the modules of a model. In C++, because it is done at the end of every recording, and a model has thousands of modules and
// tensors: each becomes one named tuple of torchprof/trace/model.py.
#include <pybind11/stl.h>
#include <torch/csrc/Dtype.h>
#include <torch/csrc/DynamicTypes.h>
#include <torch/csrc/autograd/python_variable.h>

#include <algorithm>
#include <map>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "bindings/attributes.h"
#include "bindings/bindings.h"
#include "bindings/named_tuple.h"
#include "bindings/places.h"
#include "record/tensor_reader.h"

namespace torchprof::bindings {
namespace {

namespace py = pybind11;
using namespace py::literals;

// A value that the file of a trace can hold: a bool, an int, or the ints of a tuple or list. Anything else is not told.
py::object plain(PyObject* value) {
  if (value == nullptr) {
    return py::none();
  }
  if (PyLong_CheckExact(value) || PyBool_Check(value)) {
    return py::reinterpret_borrow<py::object>(value);
  }
  if (!PyTuple_Check(value) && !PyList_Check(value)) {
    return py::none();
  }
  PyObject** const items = PySequence_Fast_ITEMS(value);
  const auto count = static_cast<size_t>(PySequence_Fast_GET_SIZE(value));
  py::tuple ints(count);
  for (size_t at = 0; at < count; ++at) {
    if (!PyLong_CheckExact(items[at])) {
      return py::none();
    }
    ints[at] = py::reinterpret_borrow<py::object>(items[at]);
  }
  return ints;
}

// Makes a ModuleInfo of every place, and a TensorInfo of every parameter and buffer.
class Describe {
  static constexpr size_t kFields = 12;  // of a ModuleInfo, without `attributes`

 public:
  // read_class: type -> (name, container, whether its modules are special, where it is defined or None). read_module: (path, module)
  // -> (name of its class, opaque, parameters, buffers), for special modules: those of such a class, and those that have one of these
  // attributes of their own.
  // read_tensor: (name, tensor, owner) -> TensorInfo, for tensors that are not plain. attributes: the further fields of a ModuleInfo,
  // which are attributes of the module; None where it has none of its own, or not a plain one.
  Describe(const py::type& module_info, const py::type& tensor_info, py::function read_class, py::function read_module,
           py::function read_tensor, py::tuple special, py::tuple attributes, py::dict owners, const py::type& parameter)
      : module_info_(module_info),
        tensor_info_(tensor_info),
        read_class_(std::move(read_class)),
        read_module_(std::move(read_module)),
        read_tensor_(std::move(read_tensor)),
        special_(std::move(special)),
        attributes_(std::move(attributes)),
        owners_(std::move(owners)),
        parameter_(parameter) {
    check_fields(module_info, kFields + attributes_.size());
    check_fields(tensor_info, 9);
  }

  py::object operator()(const Place& place) {
    const auto& [module, path, name, parent, depth, same_as] = place;
    const py::tuple kind = class_of(module);
    const bool is_first = same_as < 0;
    const py::object attributes = dictionary_of(module);
    py::object type_name = kind[0], container = kind[1], opaque = empty_, parameters = none_, buffers = none_;
    if (!is_first) {
      container = py::bool_(false);
    } else if (kind[2].ptr() == Py_True || is_special(attributes)) {
      const py::tuple read = read_module_(path, module);
      type_name = read[0];
      opaque = read[1];
      parameters = read[2];
      buffers = read[3];
    } else {
      parameters = tensors(path, value_of(module.ptr(), attributes, parameters_name_.ptr()));
      buffers = tensors(path, value_of(module.ptr(), attributes, buffers_name_.ptr()));
    }
    const py::object shown_name = is_first && py::len(name) == 0 ? type_name : name;
    const py::int_ id(reinterpret_cast<uintptr_t>(module.ptr()));
    const py::object info =
        named_tuple(module_info_, attributes_.size(), path, shown_name, type_name, py::int_(parent), py::int_(depth), id,
                    py::int_(same_as), container, opaque, parameters, buffers, py::object(kind[3]));
    for (size_t at = 0; at < attributes_.size(); ++at) {
      PyObject* const value = is_first ? value_in(attributes, attributes_[at].ptr()) : nullptr;
      PyTuple_SET_ITEM(info.ptr(), kFields + at, plain(value).release().ptr());
    }
    return untracked(info);
  }

 private:
  py::tuple class_of(const py::object& module) {
    const py::handle type = py::type::handle_of(module);
    const auto [found, is_new] = classes_.try_emplace(type.ptr());
    if (is_new) {
      found->second = read_class_(type);
    }
    return found->second;
  }

  bool is_special(const py::object& attributes) const {
    return std::any_of(special_.begin(), special_.end(), [&attributes](const py::handle& name) {
      const PyObject* const value = value_in(attributes, name.ptr());
      return value != nullptr && value != Py_None;
    });
  }

  py::object tensors(const py::object& path, const py::object& registry) {
    if (PyDict_GET_SIZE(registry.ptr()) == 0) {
      return none_;
    }
    py::list infos;
    PyObject *name = nullptr, *tensor = nullptr;
    for (Py_ssize_t position = 0; PyDict_Next(registry.ptr(), &position, &name, &tensor) != 0;) {
      if (tensor != Py_None) {
        infos.append(info(path, py::reinterpret_borrow<py::object>(name), py::reinterpret_borrow<py::object>(tensor)));
      }
    }
    return py::tuple(infos);
  }

  py::object info(const py::object& path, const py::object& name, const py::object& tensor) {
    const py::int_ id(reinterpret_cast<uintptr_t>(tensor.ptr()));
    PyObject* const first = PyDict_SetDefault(owners_.ptr(), id.ptr(), path.ptr());
    const py::object owner = first == path.ptr() ? py::none() : py::reinterpret_borrow<py::object>(first);
    if (!is_plain(tensor)) {
      return read_tensor_(name, tensor, owner);
    }
    const c10::TensorImpl& impl = *THPVariable_Unpack(tensor.ptr()).unsafeGetTensorImpl();
    const c10::IntArrayRef sizes = impl.sizes();
    const py::object shared_with = first == path.ptr() ? owner_of_memory(impl, path) : owner;
    const auto type = impl.dtype().toScalarType();
    const int64_t numel = impl.numel();
    return untracked(named_tuple(tensor_info_, 0, name, shape(sizes), dtype_name(type), device_name(impl.device()),
                                 py::int_(numel), py::int_(numel * static_cast<int64_t>(c10::elementSize(type))),
                                 py::bool_(impl.requires_grad()), shared_with, py::bool_(false)));
  }

  // One tuple for all tensors of a shape: there are few shapes.
  py::object shape(c10::IntArrayRef sizes) {
    const auto [found, is_new] = shapes_.try_emplace(sizes.vec());
    if (is_new) {
      py::tuple made(sizes.size());
      for (size_t at = 0; at < sizes.size(); ++at) {
        made[at] = py::int_(sizes[at]);
      }
      found->second = made;
    }
    return found->second;
  }

  // The path of the module that has another tensor on all of this memory, as `b.weight.data = a.weight.data` makes it; None: no other.
  py::object owner_of_memory(const c10::TensorImpl& impl, const py::object& path) {
    const void* const data = impl.unsafe_storage().unsafeGetStorageImpl()->_mutable_data_ptr_no_checks().get();
    if (data == nullptr || impl.numel() == 0) {
      return py::none();
    }
    const auto begin = reinterpret_cast<uint64_t>(data) + static_cast<uint64_t>(impl.storage_offset()) * impl.itemsize();
    const auto [found, is_new] =
        owners_of_memory_.try_emplace({begin, impl.numel() * static_cast<int64_t>(impl.itemsize())}, path);
    return is_new || found->second.ptr() == path.ptr() ? py::none() : found->second;
  }

  // Whether its sizes are those that the TensorImpl holds.
  bool is_plain(const py::object& tensor) const {
    const PyTypeObject* const type = Py_TYPE(tensor.ptr());
    if (type != reinterpret_cast<PyTypeObject*>(parameter_.ptr()) &&
        type != reinterpret_cast<PyTypeObject*>(THPVariableClass)) {
      return false;
    }
    const c10::TensorImpl* const impl = THPVariable_Unpack(tensor.ptr()).unsafeGetTensorImpl();
    return is_readable(impl) && impl->layout() == c10::kStrided && impl->has_storage() && !impl->has_symbolic_sizes_strides() &&
           !impl->key_set().has_any(kUnusual);
  }

  py::str dtype_name(c10::ScalarType type) {
    const auto [found, is_new] = dtypes_.try_emplace(static_cast<int>(type));
    if (is_new) {
      found->second = py::str(torch::getTHPDtype(type)->name);
    }
    return found->second;
  }

  py::str device_name(c10::Device device) {
    const auto [found, is_new] =
        devices_.try_emplace(static_cast<int>(device.type()) << 8 | static_cast<uint8_t>(device.index()));
    if (is_new) {
      found->second = py::str(device.str());
    }
    return found->second;
  }

  const py::type module_info_, tensor_info_;
  const py::function read_class_, read_module_, read_tensor_;
  const py::tuple special_, attributes_;
  const py::dict owners_;
  const py::type parameter_;
  const py::tuple none_;  // no tensors
  const py::str empty_{""};
  const py::str parameters_name_{"_parameters"}, buffers_name_{"_buffers"};
  std::unordered_map<PyObject*, py::tuple> classes_;
  std::map<std::pair<uint64_t, int64_t>, py::object> owners_of_memory_;  // by address and bytes
  std::map<std::vector<int64_t>, py::object> shapes_;
  std::unordered_map<int, py::str> dtypes_;
  std::unordered_map<int, py::str> devices_;
};

py::tuple describe(const Places& places, const py::type& module_info, const py::type& tensor_info,
                   const py::function& read_class, const py::function& read_module, const py::function& read_tensor,
                   const py::tuple& special, const py::tuple& attributes, const py::dict& owners, const py::type& parameter) {
  Describe describe(module_info, tensor_info, read_class, read_module, read_tensor, special, attributes, owners, parameter);
  py::tuple infos(places.rows().size());
  for (size_t row = 0; row < places.rows().size(); ++row) {
    infos[row] = describe(places.rows()[row]);
  }
  return infos;
}

}  // namespace

void define_model(py::module_& module) {
  module.def("describe", &describe, "places"_a, py::kw_only(), "module_info"_a, "tensor_info"_a, "read_class"_a,
             "read_module"_a, "read_tensor"_a, "special"_a, "attributes"_a, "owners"_a, "parameter"_a);
}

}  // namespace torchprof::bindings
