// Reads the fields of a TensorImpl directly. It makes no virtual call, as that could throw, dispatch or run Python, and it takes no
// reference. For a subclass it reads what the TensorImpl holds, which may differ from what the subclass says about itself. All of it is
// inline, because it runs for every tensor of every op.
#pragma once

#include <ATen/core/ivalue.h>
#include <c10/core/StorageImpl.h>
#include <c10/core/TensorImpl.h>
#include <c10/core/UndefinedTensorImpl.h>

#include "record/blocks_met.h"
#include "trace/thread_log.h"

struct _object;

namespace torchprof {

// Sparse, nested, symbolic, wrapped: see unusual_tensors.cpp.
bool add_unusual_operand(ThreadLog& log, const c10::TensorImpl& tensor, _object* object, uint8_t flags);

inline void read_storage(const c10::TensorImpl& tensor, Tensor& row) {
  c10::StorageImpl* const storage = tensor.unsafe_storage().unsafeGetStorageImpl();
  if (storage == nullptr) {
    row.storage = 0;
    row.storage_bytes = 0;
    row.device_type = static_cast<int8_t>(tensor.device_type());
    row.device_index = -1;
    row.flags |= kNoStorage;
    return;
  }
  // device() of a tensor may call Python; that of its storage is a field.
  row.device_type = static_cast<int8_t>(storage->device().type());
  row.device_index = static_cast<int8_t>(storage->device().index());
  const c10::DataPtr& data = storage->_mutable_data_ptr_no_checks();
  row.storage = reinterpret_cast<uint64_t>(data.get());
  if (data.get() == nullptr) {
    row.flags |= kNoData;
    const void* const token = data.get_context();  // see meta_allocator.cpp
    row.storage = reinterpret_cast<uint64_t>(token != nullptr ? token : storage);
  }
  const c10::SymInt bytes = storage->sym_nbytes();
  // What a wrapper subclass says of itself is no memory. Asking a symbolic number for its value may run Python.
  const bool is_memory = data.get() != nullptr || storage->device().is_meta();
  row.storage_bytes = is_memory && !bytes.is_heap_allocated() ? bytes.as_int_unchecked() : 0;
}

inline bool is_readable(const c10::TensorImpl* tensor) {
  return tensor != nullptr && tensor != c10::UndefinedTensorImpl::singleton();
}

// Keys of tensors whose fields do not say what they hold: see unusual_tensors.cpp.
inline constexpr c10::DispatchKeySet kUnusual({c10::DispatchKey::FuncTorchBatched, c10::DispatchKey::BatchedNestedTensor,
                                               c10::DispatchKey::FuncTorchGradWrapper, c10::DispatchKey::NestedTensor,
                                               c10::DispatchKey::Sparse, c10::DispatchKey::SparseCsr,
                                               c10::DispatchKey::Python});

inline int8_t dtype_number(const c10::TensorImpl& tensor) {
  return static_cast<int8_t>(tensor.dtype().isScalarType() ? tensor.dtype().toScalarType() : c10::ScalarType::Undefined);
}

// Appends a tensor to the operands of the op or module call that is being filled in. False when the budget is spent.
// `object` is the tensor in Python where the GIL is held, and `flags` are added to its own.
inline bool add_operand(ThreadLog& log, const c10::TensorImpl& tensor, _object* object = nullptr, uint8_t flags = 0) {
  if (tensor.key_set().has_any(kUnusual) || tensor.has_symbolic_sizes_strides()) {
    return add_unusual_operand(log, tensor, object, flags);
  }
  Tensor row{};
  read_storage(tensor, row);
  meet_block_of(log, tensor);
  row.dtype = dtype_number(tensor);
  row.flags |= flags;
  const c10::IntArrayRef sizes = tensor.sizes_default();
  return log.add_operand(row, sizes.data(), sizes.size());
}

// Whether this holds for a tensor among boxed values, or in a list among them, also where some of its elements are None. No more are
// looked at then.
template <typename IValues, typename Condition>
bool any_tensor(const IValues& values, Condition condition) {
  for (const c10::IValue& value : values) {
    if (!value.isTensor() && !value.isList()) {
      continue;
    }
    // A tensor is a list of one, so that the condition stands here once and is compiled into the loop.
    for (const c10::IValue& element : value.isTensor() ? c10::ArrayRef<c10::IValue>(value) : value.toListRef()) {
      if (!element.isTensor()) {
        if (element.isNone()) {
          continue;
        }
        break;  // a list of something else
      }
      const c10::TensorImpl* const tensor = element.unsafeToTensorImpl();
      if (is_readable(tensor) && condition(*tensor)) {
        return true;
      }
    }
  }
  return false;
}

// Appends every tensor among boxed values, including those in lists of tensors, and increments `count` for each. False if some did not
// fit. `note` is called with each of them before.
template <typename IValues, typename Note>
bool add_operands(ThreadLog& log, const IValues& values, uint16_t& count, Note note) {
  bool complete = true;
  any_tensor(values, [&](const c10::TensorImpl& tensor) {
    note(tensor);
    if (count == UINT16_MAX) {
      log.operands.drop();
      complete = false;
    } else if (!add_operand(log, tensor)) {
      complete = false;
    } else {
      ++count;
    }
    return false;  // none is the last
  });
  return complete;
}

// Whether the op is computed on this very tensor, so that its shape says all. Fake tensors stand for such.
inline bool is_plain(const c10::TensorImpl& tensor) {
  if (!tensor.key_set().has_any(kUnusual)) {
    return true;
  }
  c10::StorageImpl* const storage = tensor.unsafe_storage().unsafeGetStorageImpl();
  return !tensor.key_set().has_any(kUnusual.remove(c10::DispatchKey::Python)) && storage != nullptr &&
         storage->device().is_meta();
}

// Whether every tensor among boxed values is plain.
template <typename IValues>
bool are_plain(const IValues& values) {
  return !any_tensor(values, [](const c10::TensorImpl& tensor) { return !is_plain(tensor); });
}

}  // namespace torchprof
