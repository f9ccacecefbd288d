// Notes which storages ops are given, so that a parameter that some op read is known to be in use, whichever module was called. Views of
// a parameter have its storage. A tensor without a storage stands for itself.
#pragma once

#include <ATen/core/ivalue.h>
#include <c10/core/TensorImpl.h>

#include "record/tensor_reader.h"
#include "trace/thread_log.h"

namespace torchprof {

inline uint64_t storage_identity(const c10::TensorImpl& tensor) {
  const c10::StorageImpl* const storage = tensor.unsafe_storage().unsafeGetStorageImpl();
  return storage != nullptr ? reinterpret_cast<uint64_t>(storage) : reinterpret_cast<uint64_t>(&tensor);
}

inline void note_storage(ThreadLog& log, const c10::TensorImpl& tensor) { log.storages_read.insert(storage_identity(tensor)); }

// Of every tensor among boxed values, including those in lists of tensors.
template <typename IValues>
void note_storages(ThreadLog& log, const IValues& values) {
  any_tensor(values, [&log](const c10::TensorImpl& tensor) {
    note_storage(log, tensor);
    return false;  // none is the last
  });
}

}  // namespace torchprof
