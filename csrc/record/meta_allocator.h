// Records the memory that meta tensors stand for. While it exists, an allocator for the meta device gives every storage a token instead
// of memory. It records the allocation of the storage and, through the token's deleter, its free. So a program on meta tensors
// has the allocations and frees of the real program.
#pragma once

#include <c10/core/Allocator.h>
#include <c10/core/StorageImpl.h>

namespace torchprof {

class MetaAllocator {
 public:
  MetaAllocator();
  ~MetaAllocator();
  MetaAllocator(const MetaAllocator&) = delete;
  MetaAllocator& operator=(const MetaAllocator&) = delete;

 private:
  c10::Allocator* const replaced_;
};

// After recording was paused for a kernel: record a storage that it returned, and the workspace that the real kernel needs.
void report_result(c10::StorageImpl& storage);
void report_workspace(int64_t bytes);
// Of a storage made while the recording was paused: it stands for one from before the recording, which never reports it.
void take_as_earlier(c10::StorageImpl& storage);
// PyTorch resizes a meta storage by changing a number. Here its block is freed, and one of the new size is allocated, as elsewhere.
void resize_on_meta(c10::StorageImpl& storage, size_t bytes);
// Before it: whether the kernel is an aten::add of autograd's engine, which accumulates two gradients.
bool adds_gradients();

}  // namespace torchprof
