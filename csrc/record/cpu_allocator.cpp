#include "record/cpu_allocator.h"

#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/alloc_cpu.h>
#include <c10/util/Exception.h>

#include "record/memory_observer.h"
#include "record/memory_reports.h"
#include "record/stacks.h"
#include "record/thread_slot.h"
#include "trace/clock.h"

namespace torchprof {
namespace {

void record(const void* data, int64_t bytes) noexcept {
  if (CpuAllocator::recording() == 0 || !is_of_program(data, bytes)) {
    return;
  }
  const LogWriter writer(Event::kAllocation);
  if (ThreadLog* const log = writer.log()) {
    log->memory_event(ticks(), reinterpret_cast<uint64_t>(data), bytes, static_cast<int8_t>(c10::DeviceType::CPU), -1,
                      bytes > 0 ? stack_of_memory(*log) : kStackOfOp);
  }
}

// PyTorch's default allocator in every respect but one: the profiler of this thread is told of a block unless that is the recording.
class Recording final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    void* data = nullptr;
    try {
      data = c10::alloc_cpu(bytes);
    } catch (const c10::Error&) {
      c10::profiledCPUMemoryReporter().OutOfMemory(bytes);
      throw;
    }
    if (data != nullptr) {
      record(data, static_cast<int64_t>(bytes));
      if (!MemoryObserver::has_slot()) {
        c10::profiledCPUMemoryReporter().New(data, bytes);
      }
    }
    return {data, data, &release_block, c10::Device(c10::DeviceType::CPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release_block; }
  void copy_data(void* to, const void* from, size_t bytes) const override { default_copy_data(to, from, bytes); }
};

}  // namespace

c10::Allocator& recording_allocator() {
  static auto* const instance = new Recording;
  return *instance;
}

CpuAllocator::CpuAllocator() : replaced_(c10::GetCPUAllocator()) {
  // A program's own allocator may not allocate where PyTorch's does: it stays, and its blocks are known when they are first used.
  if (replaced_ == c10::GetDefaultCPUAllocator()) {
    c10::SetCPUAllocator(&recording_allocator());
  }
  static std::atomic<uint64_t> latest{0};
  current_.store(latest.fetch_add(1) + 1, std::memory_order_relaxed);
}

CpuAllocator::~CpuAllocator() {
  current_.store(0, std::memory_order_relaxed);
  if (c10::GetCPUAllocator() == &recording_allocator()) {
    c10::SetCPUAllocator(replaced_);
  }
}

void release_block(void* data) {
  if (data == nullptr) {
    return;
  }
  record_free(data);
  if (!MemoryObserver::has_slot()) {
    c10::profiledCPUMemoryReporter().Delete(data);
  }
  c10::free_cpu(data);
}

void record_free(const void* data) { record(data, kUnknownFree); }

}  // namespace torchprof
