// Blocks of the CPU that CpuAllocator did not allocate. The first op or module call that uses one tells of it.
//
//   who frees it           what it is                                              what happens
//   PyTorch's allocator    from before the recording                               release_block() frees it, and records that
//   a std::function        memory of others: an array of NumPy, a DLPack tensor    a BlockMet; the function records the end
//   anything else          mapped or shared memory, a slice of either              a BlockMet; the storage is watched
#pragma once

#include <c10/core/StorageImpl.h>
#include <c10/core/TensorImpl.h>

#include "record/cpu_allocator.h"
#include "trace/thread_log.h"

namespace torchprof {

// For a block that CpuAllocator does not free.
void meet_block(ThreadLog& log, c10::StorageImpl& storage);

inline void meet_block_of(ThreadLog& log, const c10::TensorImpl& tensor) {
  c10::StorageImpl* const storage = tensor.unsafe_storage().unsafeGetStorageImpl();
  if (storage != nullptr && storage->_mutable_data_ptr_no_checks().get_deleter() != &release_block &&
      CpuAllocator::recording() != 0 && storage->device().is_cpu()) {
    meet_block(log, *storage);
  }
}

// Lets the free of a block from before a recording be recorded, if it is one of PyTorch's allocator for the CPU, and what it is resized
// to. Nothing else about the storage changes: the same memory is freed in the same way.
void follow_block(c10::StorageImpl& storage);

// Lets slices of storages be told from other storages, by one of them.
void know_slices(c10::StorageImpl& slice);

// What stood for some storage may stand for another one from now on.
void forget_blocks_met();

}  // namespace torchprof
