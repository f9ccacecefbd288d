// Counts the memory that meta tensors stand for. While it exists, storages on the meta device come from an allocator that
// hands out a token instead of memory: it is told when a storage is made and, through the token's deleter, when it dies. So
// a program run on meta tensors yields the allocations and frees of the real one.
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

// After a kernel that pretended to run: what it returned, and what the real one is known to need meanwhile.
void report_result(c10::StorageImpl& storage);
void report_workspace(int64_t bytes);
// Before it: whether it adds up two gradients for autograd's engine, and not for a node.
bool adds_gradients();

}  // namespace torchprof
