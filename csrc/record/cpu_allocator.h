// Records the memory of the CPU on every thread. PyTorch reports a block only to the thread that allocates it, and only where that
// thread has a profiler. So while a CpuAllocator exists, an allocator stands in front of PyTorch's: it takes the same memory from the
// same place, and frees it in the same way, whenever that is.
//
//   at::empty ─► allocate() ─► c10::alloc_cpu()       DataPtr{data, data, &release_block}
//                    └─► log of the thread
#pragma once

#include <c10/core/Allocator.h>

#include <atomic>
#include <cstdint>

namespace torchprof {

class CpuAllocator {
 public:
  CpuAllocator();
  ~CpuAllocator();  // blocks that it allocated stay, and are freed as before
  CpuAllocator(const CpuAllocator&) = delete;
  CpuAllocator& operator=(const CpuAllocator&) = delete;

  // Of the recording that records the CPU's memory now; 0: there is none.
  static uint64_t recording() { return current_.load(std::memory_order_relaxed); }

 private:
  static inline std::atomic<uint64_t> current_{0};
  c10::Allocator* const replaced_;
};

// What allocates while a CpuAllocator exists. Never destroyed, because storages keep it to be resized by.
c10::Allocator& recording_allocator();

// Frees a block of PyTorch's allocator for the CPU, and records it. Never removed: blocks outlive recordings.
void release_block(void* data);

// For a block that something else frees.
void record_free(const void* data);

}  // namespace torchprof
