// Reads the modules of a model. In C++, because it is done at every start and end of a recording, and a model has thousands of modules
// and tensors: each becomes one named tuple of torchprof/record/modules.py or torchprof/trace/model.py, made without its constructor.
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

#include "bindings/bindings.h"
#include "record/find_tensors.h"
#include "record/tensor_reader.h"

namespace torchprof::bindings {
namespace {

namespace py = pybind11;
using namespace py::literals;

py::object dictionary_of(const py::object& module) { return py::reinterpret_steal<py::object>(attributes_of(module.ptr())); }

// A borrowed reference; nullptr where there is none.
PyObject* value_in(const py::object& attributes, PyObject* name) {
  return attributes ? look_up(attributes.ptr(), name) : nullptr;
}

// An attribute of the module's own, or what its class makes of the name: a ScriptModule has objects of other types.
py::object value_of(PyObject* module, const py::object& attributes, PyObject* name) {
  if (PyObject* const found = value_in(attributes, name)) {
    return py::reinterpret_borrow<py::object>(found);
  }
  PyObject* const found = PyObject_GetAttr(module, name);
  if (found == nullptr) {
    throw py::error_already_set();
  }
  return py::reinterpret_steal<py::object>(found);
}

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

// A named tuple of this class, with room for more fields. Its constructor would be a call of Python.
template <typename... Fields>
py::object named_tuple(const py::type& type, size_t more, Fields&&... fields) {
  auto* const cls = reinterpret_cast<PyTypeObject*>(type.ptr());
  PyObject* const made = cls->tp_alloc(cls, static_cast<Py_ssize_t>(sizeof...(fields) + more));
  if (made == nullptr) {
    throw py::error_already_set();
  }
  Py_ssize_t at = 0;
  (PyTuple_SET_ITEM(made, at++, py::object(std::forward<Fields>(fields)).release().ptr()), ...);
  return py::reinterpret_steal<py::object>(made);
}

// What holds nothing but names, numbers and other such objects is in no cycle: the garbage collector need not look at it.
py::object untracked(py::object made) {
  PyObject_GC_UnTrack(made.ptr());
  return made;
}

void check_fields(const py::type& type, size_t expected) {
  if (py::len(type.attr("_fields")) != expected) {
    throw py::type_error(py::str(type).cast<std::string>() + " has other fields than csrc/bindings/model.cpp fills in");
  }
}

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

// Every place of every module, parents before children; the children of a module at its first place only.
class Walk {
 public:
  explicit Walk(const py::type& place) : place_(place), modules_name_(py::str("_modules")) { check_fields(place, 6); }

  void visit(const py::object& module, const py::object& path, const py::object& name, Py_ssize_t parent, int depth) {
    const auto row = static_cast<Py_ssize_t>(places_.size());
    const auto [known, is_first] = first_place_.try_emplace(module.ptr(), row);
    places_.append(named_tuple(place_, 0, module, path, name, py::int_(parent), py::int_(depth),
                               py::int_(is_first ? Py_ssize_t{-1} : known->second)));
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

  py::list places() { return std::move(places_); }

 private:
  static py::object joined(const py::object& left, const py::object& right) {
    PyObject* const text = PyUnicode_Concat(left.ptr(), right.ptr());
    if (text == nullptr) {
      throw py::error_already_set();
    }
    return py::reinterpret_steal<py::object>(text);
  }

  const py::type place_;
  const py::str modules_name_, dot_{"."};
  py::list places_;
  std::unordered_map<PyObject*, Py_ssize_t> first_place_;
};

py::list walk(const py::list& roots, const py::type& place) {
  Walk walk(place);
  for (const py::handle root : roots) {
    const auto [name, module] = root.cast<std::pair<py::object, py::object>>();
    walk.visit(module, name, name, -1, 0);
  }
  return walk.places();
}

// Makes a ModuleInfo of every place, and a TensorInfo of every parameter and buffer.
class Describe {
  static constexpr size_t kFields = 11;  // of a ModuleInfo, without `attributes`

 public:
  // read_class: type -> (name, container, whether its modules are special). read_module: (path, module) -> (name of its class, opaque,
  // parameters, buffers), for special modules: those of such a class, and those that have one of these attributes of their own.
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

  py::object operator()(const py::tuple& place) {
    const py::object module = place[0], path = place[1], name = place[2];
    const py::tuple kind = class_of(module);
    const bool is_first = place[5].cast<Py_ssize_t>() < 0;
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
    const py::object info = named_tuple(module_info_, attributes_.size(), path, shown_name, type_name, place[3], place[4], id,
                                        place[5], container, opaque, parameters, buffers);
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

py::tuple describe(const py::list& places, const py::type& module_info, const py::type& tensor_info,
                   const py::function& read_class, const py::function& read_module, const py::function& read_tensor,
                   const py::tuple& special, const py::tuple& attributes, const py::dict& owners, const py::type& parameter) {
  Describe describe(module_info, tensor_info, read_class, read_module, read_tensor, special, attributes, owners, parameter);
  py::tuple infos(places.size());
  for (size_t row = 0; row < places.size(); ++row) {
    infos[row] = describe(places[row].cast<py::tuple>());
  }
  return infos;
}

}  // namespace

void define_model(py::module_& module) {
  module.def("walk", &walk, "roots"_a, "place"_a, py::pos_only());
  module.def("describe", &describe, "places"_a, py::kw_only(), "module_info"_a, "tensor_info"_a, "read_class"_a,
             "read_module"_a, "read_tensor"_a, "special"_a, "attributes"_a, "owners"_a, "parameter"_a);
}

}  // namespace torchprof::bindings
