#include "record/model_state.h"

#include <ATen/SparseCsrTensorImpl.h>
#include <ATen/SparseTensorImpl.h>
#include <torch/csrc/autograd/python_variable.h>

#include <algorithm>
#include <string_view>
#include <unordered_set>
#include <utility>

#include "record/attributes.h"
#include "record/tensor_reader.h"

namespace torchprof {
namespace {

// What writes them may not say so: normalization, observers of quantization, kernels of the program's own.
constexpr uint64_t kCopiedBuffer = uint64_t{1} << 20;

PyTypeObject* type_named(const char* module, const char* name) {
  PyObject* const imported = PyImport_ImportModule(module);
  PyObject* const type = imported != nullptr ? PyObject_GetAttrString(imported, name) : nullptr;
  Py_XDECREF(imported);
  PyErr_Clear();
  return reinterpret_cast<PyTypeObject*>(type);
}

// Code that torch.compile generates writes past the dispatcher.
bool is_compiled(PyObject* module, PyObject* attributes) {
  static PyObject* const name = PyUnicode_InternFromString("_compiled_call_impl");
  PyObject* const compiled = PyDict_GetItemWithError(attributes, name);
  return (compiled != nullptr && compiled != Py_None) || std::string_view(Py_TYPE(module)->tp_name) == "OptimizedModule";
}

PyObject* name_of_buffers() {
  static PyObject* const name = PyUnicode_InternFromString("_buffers");
  return name;
}

at::TensorImpl& tensor_of(PyObject* object) { return *THPVariable_Unpack(object).unsafeGetTensorImpl(); }

// Past the __setattr__ of its class.
void set_class(PyObject* object, PyTypeObject* type) {
  static PyObject* const name = PyUnicode_InternFromString("__class__");
  if (PyObject_GenericSetAttr(object, name, reinterpret_cast<PyObject*>(type)) != 0) {
    PyErr_Clear();
  }
}

}  // namespace

ModelState::ModelState(PyTypeObject* module_class, std::vector<PyTypeObject*> others, PyObject* is_plain)
    : module_class_(module_class), others_(std::move(others)), is_plain_(is_plain) {
  Py_INCREF(is_plain_);
  static PyTypeObject* const deque = type_named("collections", "deque");
  static PyTypeObject* const default_dict = type_named("collections", "defaultdict");
  kinds_ = {{&PyDict_Type, Kind::kDict}, {&PyODict_Type, Kind::kOrderedDict}, {default_dict, Kind::kDict},
            {&PyList_Type, Kind::kList}, {&PySet_Type, Kind::kSet},           {deque, Kind::kDeque}};
}

ModelState::~ModelState() {
  guard_.stop();
  Py_DECREF(is_plain_);
  for (PyObject* const object : kept_) {
    Py_DECREF(object);
  }
}

ModelState::Kind ModelState::kind_of(PyTypeObject* type) {
  auto& [known, kind] = recent_kinds_[hash_of(type) % recent_kinds_.size()];
  if (known != type) {
    known = type;
    kind = find_kind(type);
  }
  return kind;
}

ModelState::Kind ModelState::find_kind(PyTypeObject* type) {
  const auto [found, is_new] = kinds_.try_emplace(type, Kind::kNothing);
  if (is_new) {
    const auto is_a = [type](PyTypeObject* base) { return PyType_IsSubtype(type, base) != 0; };
    const auto is_container = [&](const auto& known) {
      return known.second >= Kind::kDict && known.second <= Kind::kDeque && is_a(known.first) &&
             (known.second != Kind::kDict || !is_a(&PyODict_Type));  // an OrderedDict is a dict too
    };
    if (std::any_of(others_.begin(), others_.end(), is_a)) {
      found->second = Kind::kOther;
    } else if (is_a(reinterpret_cast<PyTypeObject*>(THPVariableClass))) {
      found->second = Kind::kTensor;
    } else if (is_a(module_class_)) {
      found->second = Kind::kModule;
    } else if (is_a(&PyTuple_Type)) {
      found->second = Kind::kTuple;
    } else if (const auto base = std::find_if(kinds_.begin(), kinds_.end(), is_container); base != kinds_.end()) {
      found->second = base->second;
    } else if (has_plain_attributes(type)) {
      found->second = Kind::kObject;
    }
  }
  return found->second;
}

bool ModelState::has_plain_attributes(PyTypeObject* type) const {
  static PyTypeObject* const name_space = type_named("types", "SimpleNamespace");
  if (type == name_space) {
    return true;
  }
  const bool is_of_program = (type->tp_flags & Py_TPFLAGS_HEAPTYPE) != 0 && PyType_IsSubtype(type, &PyType_Type) == 0;
  if (!is_of_program || (type->tp_dictoffset == 0 && type->tp_basicsize <= static_cast<Py_ssize_t>(sizeof(PyObject)))) {
    return false;
  }
  PyObject* const answer = PyObject_CallOneArg(is_plain_, reinterpret_cast<PyObject*>(type));
  Py_XDECREF(answer);
  PyErr_Clear();
  return answer == Py_True;
}

// Those in its dictionary, and those in its slots.
void ModelState::add_attributes(PyObject* object) {
  if (PyObject* const attributes = attributes_of(object)) {
    look_at(attributes);
    Py_DECREF(attributes);  // the object still holds it
  }
  slots_.add(object, [this](PyObject* value) { look_at(value); });
}

void ModelState::keep(PyObject* object) {
  Py_INCREF(object);
  kept_.push_back(object);
}

void ModelState::look_at(PyObject* object) {
  PyTypeObject* const type = Py_TYPE(object);
  if (object == Py_None || type == &PyUnicode_Type || type == &PyBool_Type || type == &PyLong_Type) {
    return;  // most are
  }
  const Kind kind = kind_of(type);
  if (kind == Kind::kNothing || !seen_.insert(object)) {
    return;
  }
  if (type == &PyODict_Type && PyDict_GET_SIZE(object) == 0) {
    containers_.add(object, ContainerKind::kOrderedDict);  // a module has ten of these, which add no items
  } else {
    pending_.push_back(object);
  }
}

void ModelState::add(PyObject* object) {
  keep(object);
  look_at(object);
  // Nothing may run between reading a container and noting what is in it, so this is no recursion.
  while (!pending_.empty()) {
    PyObject* const next = pending_.back();
    pending_.pop_back();
    const auto add_container = [this, next](ContainerKind kind) {
      for (PyObject* const item : containers_.add(next, kind)) {
        look_at(item);
      }
      if ((Py_TYPE(next)->tp_flags & Py_TPFLAGS_HEAPTYPE) != 0) {  // of a class that is derived from Python's own
        add_attributes(next);
      }
    };
    switch (kind_of(Py_TYPE(next))) {
      case Kind::kDict:
        add_container(ContainerKind::kDict);
        break;
      case Kind::kOrderedDict:
        add_container(ContainerKind::kOrderedDict);
        break;
      case Kind::kList:
        add_container(ContainerKind::kList);
        break;
      case Kind::kSet:
        add_container(ContainerKind::kSet);
        break;
      case Kind::kDeque:
        add_container(ContainerKind::kDeque);
        break;
      case Kind::kTuple:
        keep(next);
        for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(next); ++i) {
          look_at(PyTuple_GET_ITEM(next, i));
        }
        break;
      case Kind::kModule:
        add_module(next);
        break;
      case Kind::kTensor:
        add_tensor(next);
        break;
      case Kind::kOther:
        keep(next);
        found_others_.push_back(next);
        break;
      case Kind::kObject:
        keep(next);
        add_attributes(next);
        break;
      case Kind::kNothing:
        break;
    }
  }
}

void ModelState::add_module(PyObject* module) {
  keep(module);
  instances_.push_back({module, Py_TYPE(module), false, false, false, false});
  PyObject* const attributes = attributes_of(module);
  if (attributes == nullptr) {
    return;
  }
  look_at(attributes);
  PyObject* const buffers = PyDict_GetItemWithError(attributes, name_of_buffers());
  if (buffers != nullptr && PyDict_Check(buffers)) {
    PyObject *key = nullptr, *value = nullptr;
    for (Py_ssize_t position = 0; PyDict_Next(buffers, &position, &key, &value);) {
      if (kind_of(Py_TYPE(value)) == Kind::kTensor) {
        if (const c10::Storage& storage = tensor_of(value).unsafe_storage(); storage.unsafeGetStorageImpl() != nullptr) {
          buffers_.push_back(guard_.add(storage));
        }
      }
    }
  }
  is_compiled_ = is_compiled_ || is_compiled(module, attributes);
  PyErr_Clear();
  Py_DECREF(attributes);
}

void ModelState::add_tensor(PyObject* object) {
  keep(object);
  at::TensorImpl& tensor = tensor_of(object);
  if (!is_readable(&tensor)) {
    return;
  }
  auto* const variable = reinterpret_cast<THPVariable*>(object);
  PyObject** const attributes = _PyObject_GetDictPtr(object);
  const bool has_attributes = attributes != nullptr && *attributes != nullptr;
  instances_.push_back({object, Py_TYPE(object), true, variable->backward_hooks != nullptr,
                        variable->post_accumulate_grad_hooks != nullptr, has_attributes});
  for (PyObject* const held :
       {variable->backward_hooks, variable->post_accumulate_grad_hooks, has_attributes ? *attributes : nullptr}) {
    if (held != nullptr) {
      look_at(held);
    }
  }
  add_tensor(object, tensor, TensorRow::kObject);
  if (tensor.key_set().has(c10::DispatchKey::Python)) {
    add_parts(object);
  }
}

// The tensors that a wrapper consists of, by the protocol of torch.compile.
void ModelState::add_parts(PyObject* tensor) {
  PyObject* const flat = PyObject_CallMethod(tensor, "__tensor_flatten__", nullptr);
  if (flat != nullptr && PyTuple_Check(flat) && PyTuple_GET_SIZE(flat) > 0 && PyList_Check(PyTuple_GET_ITEM(flat, 0))) {
    PyObject* const names = PyTuple_GET_ITEM(flat, 0);
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(names); ++i) {
      if (PyObject* const part = PyObject_GetAttr(tensor, PyList_GET_ITEM(names, i))) {
        look_at(part);
        keep(part);
        Py_DECREF(part);
      }
    }
  }
  Py_XDECREF(flat);
  PyErr_Clear();
}

void ModelState::add_tensor(PyObject* object, at::TensorImpl& tensor, TensorRow::Role role) {
  std::ptrdiff_t block = -1;
  if (tensor.unsafe_storage().unsafeGetStorageImpl() != nullptr) {
    block = static_cast<std::ptrdiff_t>(guard_.add(tensor.unsafe_storage()));
  }
  tensors_.push_back({object, TensorState(tensor), block, role});
  const at::Tensor gradient = tensors_.back().state.gradient();
  if (gradient.defined() && seen_.insert(gradient.unsafeGetTensorImpl())) {
    add_tensor(object, *gradient.unsafeGetTensorImpl(), TensorRow::kGradient);
  }
  const TensorRow::Role part_role = role == TensorRow::kGradient ? role : TensorRow::kPart;
  if (tensor.key_set().has(c10::DispatchKey::Sparse)) {
    auto& sparse = static_cast<at::SparseTensorImpl&>(tensor);
    add_tensor(object, *sparse.indices().unsafeGetTensorImpl(), part_role);
    add_tensor(object, *sparse.values().unsafeGetTensorImpl(), part_role);
  } else if (tensor.key_set().has(c10::DispatchKey::SparseCsr)) {
    auto& sparse = static_cast<at::SparseCsrTensorImpl&>(tensor);
    for (const at::Tensor& part : {sparse.compressed_indices(), sparse.plain_indices(), sparse.values()}) {
      add_tensor(object, *part.unsafeGetTensorImpl(), part_role);
    }
  }
}

std::vector<PyTypeObject*> ModelState::module_classes() const {
  std::vector<PyTypeObject*> classes;
  for (const auto& [type, kind] : kinds_) {
    if (kind == Kind::kModule) {
      classes.push_back(type);
    }
  }
  return classes;
}

void ModelState::start() {
  for (const size_t row : buffers_) {
    if (is_compiled_ || guard_.bytes(row) <= kCopiedBuffer) {
      guard_.copy(row);
    }
  }
  guard_.start();
}

// Then the tensor that it was may be gone.
bool ModelState::was_swapped(const TensorRow& row) {
  return row.role == TensorRow::kObject && row.state.tensor() != &tensor_of(row.object);
}

std::vector<ModelState::Failure> ModelState::restore() {
  std::vector<Failure> failures;
  guard_.stop();
  guard_.restore();
  // Views of a tensor share its version counter, also those that are on other memory by now: what is written there moves it.
  std::unordered_set<int64_t> left;
  for (const TensorRow& row : tensors_) {
    if (row.block >= 0 && !was_swapped(row) && row.state.has_other_storage()) {
      left.insert(row.block);
    }
  }
  for (TensorRow& row : tensors_) {
    restore(row, left.count(row.block) == 0, failures);
  }
  for (const Instance& instance : instances_) {
    restore(instance);
  }
  slots_.restore();
  for (std::string& reason : containers_.restore()) {
    failures.push_back({nullptr, false, std::move(reason)});
  }
  return failures;
}

void ModelState::restore(TensorRow& row, bool has_own_version, std::vector<Failure>& failures) {
  std::string reason;
  if (was_swapped(row)) {
    failures.push_back({row.object, false, "it was swapped with another tensor"});
    return;
  }
  try {
    if (row.block >= 0) {
      reason = guard_.failure(static_cast<size_t>(row.block));
    }
    if (reason.empty() && row.state.version_moved() && !row.state.has_other_storage()) {
      if (has_own_version && row.block >= 0 && !guard_.is_sure(static_cast<size_t>(row.block))) {
        reason = "it was written without going through the dispatcher";
      } else if (row.state.tensor()->is_mkldnn()) {
        reason = "its layout cannot be copied";
      }
    }
    row.state.restore(reason.empty());
  } catch (const std::exception& error) {
    reason = error.what();
  }
  if (!reason.empty()) {
    failures.push_back({row.object, row.role == TensorRow::kGradient, std::move(reason)});
  }
}

void ModelState::restore(const Instance& instance) {
  PyObject* const object = instance.object;
  if (Py_TYPE(object) != instance.type) {
    set_class(object, instance.type);
  }
  if (!instance.is_tensor) {
    return;
  }
  auto* const variable = reinterpret_cast<THPVariable*>(object);
  // The setters of these attributes would ask a subclass for its __torch_function__.
  auto* const meta = static_cast<torch::autograd::AutogradMeta*>(tensor_of(object).autograd_meta());
  if (!instance.had_hooks && variable->backward_hooks != nullptr) {
    if (meta != nullptr) {
      meta->hooks_.clear();
    }
    Py_CLEAR(variable->backward_hooks);
  }
  if (!instance.had_gradient_hooks && variable->post_accumulate_grad_hooks != nullptr) {
    if (meta != nullptr) {
      meta->post_acc_grad_hooks_.reset();
    }
    Py_CLEAR(variable->post_accumulate_grad_hooks);
  }
  if (PyObject** const attributes = _PyObject_GetDictPtr(object);
      !instance.had_attributes && attributes != nullptr && *attributes != nullptr) {
    PyDict_Clear(*attributes);
  }
}

}  // namespace torchprof
