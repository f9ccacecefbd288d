#include "record/unusual_tensors.h"

#include <ATen/NestedTensorImpl.h>
#include <ATen/SparseCsrTensorImpl.h>
#include <ATen/SparseTensorImpl.h>
#include <ATen/functorch/BatchedTensorImpl.h>
#include <torch/csrc/autograd/python_variable.h>

#include <cstring>
#include <typeinfo>

#include "record/attributes.h"
#include "record/find_tensors.h"

namespace torchprof {
namespace {

constexpr c10::DispatchKeySet kBatched({c10::DispatchKey::FuncTorchBatched, c10::DispatchKey::BatchedNestedTensor});
constexpr c10::DispatchKeySet kNested(c10::DispatchKey::NestedTensor);
constexpr c10::DispatchKeySet kPython(c10::DispatchKey::Python);
constexpr c10::DispatchKeySet kSparse({c10::DispatchKey::Sparse, c10::DispatchKey::SparseCsr});
constexpr int kMaxDepth = 64;  // of wrappers inside wrappers

int64_t bytes_of(const c10::TensorImpl& tensor, PyObject* object, int depth);

// How at::functorch::TensorWrapper begins, the wrapper of torch.func.grad. Its header includes one that PyTorch does not ship.
struct GradWrapper : c10::TensorImpl {
  at::Tensor value;
};

bool is_grad_wrapper(const c10::TensorImpl& tensor) {
  return tensor.key_set().has(c10::DispatchKey::FuncTorchGradWrapper) &&
         std::strcmp(typeid(tensor).name(), "N2at9functorch13TensorWrapperE") == 0;
}

// The tensor in the middle of torch.func's wrappers: that of vmap has one dimension more than its wrapper.
const c10::TensorImpl& unwrapped(const c10::TensorImpl& tensor) {
  const c10::TensorImpl* inner = &tensor;
  for (int depth = 0; depth < kMaxDepth; ++depth) {
    if (const auto* batched =
            inner->key_set().has_any(kBatched) ? dynamic_cast<const at::functorch::BatchedTensorImpl*>(inner) : nullptr) {
      inner = batched->value().unsafeGetTensorImpl();
    } else if (is_grad_wrapper(*inner)) {
      inner = static_cast<const GradWrapper*>(inner)->value.unsafeGetTensorImpl();
    } else {
      break;
    }
  }
  return *inner;
}

void read_sizes(const c10::TensorImpl& tensor, c10::DimVector& dims) {
  if (!tensor.has_symbolic_sizes_strides()) {
    const c10::IntArrayRef sizes = tensor.sizes_default();
    dims.assign(sizes.begin(), sizes.end());
    return;
  }
  const int64_t unknown = tensor.key_set().has_any(kNested) ? kRaggedSize : kUnknownSize;
  for (const c10::SymInt& size : tensor.sym_sizes_default()) {
    dims.push_back(size.is_heap_allocated() ? unknown : size.as_int_unchecked());
  }
}

int64_t product(c10::IntArrayRef dims) {
  int64_t count = 1;
  for (const int64_t size : dims) {
    if (size < 0) {
      return kUnknownBytes;
    }
    count *= size;
  }
  return count;
}

int64_t add(int64_t bytes, int64_t more) { return bytes < 0 || more < 0 ? kUnknownBytes : bytes + more; }

// The integers of a tensor that can be read where it lies; empty if it cannot.
c10::IntArrayRef integers(const c10::TensorImpl& tensor) {
  if (tensor.key_set().has_any(kUnusual) || tensor.has_symbolic_sizes_strides() || !tensor.dtype().Match<int64_t>()) {
    return {};
  }
  c10::StorageImpl* const storage = tensor.unsafe_storage().unsafeGetStorageImpl();
  const void* const data =
      storage != nullptr && storage->device().is_cpu() ? storage->_mutable_data_ptr_no_checks().get() : nullptr;
  const int64_t count = product(tensor.sizes_default());
  if (data == nullptr || !tensor.is_contiguous_default(c10::MemoryFormat::Contiguous)) {
    return {};
  }
  return {static_cast<const int64_t*>(data) + tensor.storage_offset(), static_cast<size_t>(count)};
}

// The sizes of a nested tensor are those that its tensors have in common. Returns how many elements it has.
//
//   tensors of [3, 16] and [4, 16]  ->  [2, kRaggedSize, 16], 112 elements
int64_t read_nested(const at::native::NestedTensorImpl& tensor, c10::DimVector& dims) {
  const c10::TensorImpl& sizes = *tensor.get_nested_sizes().unsafeGetTensorImpl();
  const c10::IntArrayRef shape = sizes.sizes_default();
  const c10::IntArrayRef values = integers(sizes);
  dims.push_back(shape.empty() ? 0 : shape[0]);
  if (shape.size() < 2) {
    return shape.empty() || shape[0] == 0 ? 0 : shape[0];
  }
  const int64_t ndim = shape[1];
  if (values.empty() && product(shape) != 0) {
    dims.append(ndim, kUnknownSize);
    return kUnknownBytes;
  }
  int64_t elements = 0;
  for (int64_t row = 0; row < shape[0]; ++row) {
    elements += product(values.slice(row * ndim, ndim));
  }
  for (int64_t at = 0; at < ndim; ++at) {
    int64_t size = shape[0] == 0 ? 0 : values[at];
    for (int64_t row = 1; row < shape[0]; ++row) {
      size = values[row * ndim + at] == size ? size : kRaggedSize;
    }
    dims.push_back(size);
  }
  return elements;
}

// A jagged tensor is a subclass around the elements of all its tensors, one after the other. With lengths, it has only some of them.
int64_t bytes_of_jagged(PyObject* object, int depth) {
  PyObject* const values = object != nullptr ? attribute(object, "_values") : nullptr;
  if (values == nullptr || !is_tensor(values)) {
    return kUnknownBytes;
  }
  const c10::TensorImpl& elements = *THPVariable_Unpack(values).unsafeGetTensorImpl();
  const int64_t bytes = bytes_of(elements, values, depth + 1);
  PyObject* const lengths = attribute(object, "_lengths");
  if (lengths == nullptr || lengths == Py_None || bytes <= 0) {
    return bytes;
  }
  PyObject* const ragged = attribute(object, "_ragged_idx");
  const long at = ragged != nullptr && PyLong_Check(ragged) ? PyLong_AsLong(ragged) - 1 : -1;
  if (!is_tensor(lengths) || at < 0 || elements.has_symbolic_sizes_strides() ||
      static_cast<size_t>(at) >= elements.sizes_default().size()) {
    return kUnknownBytes;
  }
  const c10::IntArrayRef counts = integers(*THPVariable_Unpack(lengths).unsafeGetTensorImpl());
  int64_t used = 0;
  for (const int64_t count : counts) {
    used += count;
  }
  return counts.empty() ? kUnknownBytes : bytes / elements.sizes_default()[at] * used;
}

// The storage of a sparse tensor is that of its values, by which views are known.
void read_sparse(const c10::TensorImpl& tensor, Tensor& row, int depth) {
  const auto parts = parts_of(tensor);
  row.bytes = parts.empty() ? kUnknownBytes : 0;
  for (const at::Tensor& part : parts) {
    row.bytes = add(row.bytes, bytes_of(*part.unsafeGetTensorImpl(), nullptr, depth + 1));
  }
  if (!parts.empty()) {
    row.flags &= static_cast<uint8_t>(~(kNoStorage | kNoData));
    read_storage(*parts.back().unsafeGetTensorImpl(), row);
  }
}

int64_t bytes_of_inner(PyObject* object, int depth) {
  const Found inner = object != nullptr ? find_inner_tensors(object) : Found();
  int64_t bytes = inner.tensors.empty() ? kUnknownBytes : 0;
  for (size_t i = 0; i < inner.tensors.size(); ++i) {
    bytes = add(bytes, bytes_of(*inner.tensors[i], inner.objects[i], depth + 1));
  }
  return bytes;
}

// A tensor of a subclass with no memory of its own. A fake tensor has none either, but stands for one that has. Without the GIL, one
// that says it is on meta may be either, and is taken for fake.
bool is_wrapper(const c10::TensorImpl& tensor, const Reading& found, PyObject* object) {
  if (!tensor.key_set().has_any(kPython) || (found.row.flags & (kNoData | kNoStorage)) == 0) {
    return false;
  }
  const bool on_meta = found.row.device_type == static_cast<int8_t>(c10::DeviceType::Meta);
  if (!on_meta && product(found.dims) != 0) {
    return true;
  }
  if (object == nullptr) {
    return false;
  }
  static PyTypeObject* fake = nullptr;
  if (fake == nullptr) {
    fake = loaded_class("torch._subclasses.fake_tensor", "FakeTensor");
  }
  return (fake == nullptr || !PyType_IsSubtype(Py_TYPE(object), fake)) && !find_inner_tensors(object).tensors.empty();
}

Reading read_tensor(const c10::TensorImpl& outer, PyObject* object, int depth) {
  const c10::TensorImpl& tensor = unwrapped(outer);
  Reading found;
  read_storage(tensor, found.row);
  found.row.dtype = dtype_number(tensor);
  if (&tensor != &outer) {
    found.row.flags |= kTransformed;
    object = nullptr;
  }
  const auto itemsize = static_cast<int64_t>(tensor.dtype().itemsize());
  if (const auto* nested =
          tensor.key_set().has_any(kNested) ? dynamic_cast<const at::native::NestedTensorImpl*>(&tensor) : nullptr) {
    const int64_t elements = read_nested(*nested, found.dims);
    found.row.flags |= kNotDense;
    found.row.bytes = elements < 0 ? kUnknownBytes : elements * itemsize;
    return found;
  }
  read_sizes(tensor, found.dims);
  if (tensor.has_symbolic_sizes_strides()) {
    found.row.flags |= kSymbolic;
  }
  if (tensor.key_set().has_any(kNested)) {
    found.row.flags |= kNotDense | kWrapperSubclass;
    found.row.bytes = bytes_of_jagged(object, depth);
  } else if (tensor.key_set().has_any(kSparse)) {
    found.row.flags |= kNotDense;
    read_sparse(tensor, found.row, depth);
  } else if (is_wrapper(tensor, found, object)) {
    found.row.flags |= kWrapperSubclass;
    found.row.bytes = bytes_of_inner(object, depth);
  }
  return found;
}

int64_t bytes_of(const c10::TensorImpl& tensor, PyObject* object, int depth) {
  if (depth > kMaxDepth) {
    return kUnknownBytes;
  }
  const Reading found = read_tensor(tensor, object, depth);
  if ((found.row.flags & (kNotDense | kWrapperSubclass)) != 0) {
    return found.row.bytes;
  }
  const int64_t elements = product(found.dims);
  return elements < 0 ? kUnknownBytes : elements * static_cast<int64_t>(tensor.dtype().itemsize());
}

}  // namespace

Reading read_tensor(const c10::TensorImpl& tensor, PyObject* object) { return read_tensor(tensor, object, 0); }

int64_t bytes_of(const c10::TensorImpl& tensor, PyObject* object) { return bytes_of(tensor, object, 0); }

c10::SmallVector<at::Tensor, 3> parts_of(const c10::TensorImpl& tensor) {
  if (!tensor.key_set().has_any(kSparse) || tensor.key_set().has_any(kPython)) {
    return {};
  }
  if (const auto* coordinates = dynamic_cast<const at::SparseTensorImpl*>(&tensor)) {
    return {coordinates->indices(), coordinates->values()};
  }
  if (const auto* compressed = dynamic_cast<const at::SparseCsrTensorImpl*>(&tensor)) {
    return {compressed->compressed_indices(), compressed->plain_indices(), compressed->values()};
  }
  return {};
}

bool add_unusual_operand(ThreadLog& log, const c10::TensorImpl& tensor, PyObject* object, uint8_t flags) {
  Reading found = read_tensor(tensor, object);
  found.row.flags |= flags;
  return log.add_operand(found.row, found.dims.data(), found.dims.size());
}

}  // namespace torchprof
