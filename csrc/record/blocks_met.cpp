#include "record/blocks_met.h"

#include <c10/core/CPUAllocator.h>

#include <atomic>
#include <functional>
#include <mutex>
#include <utility>

#include "trace/clock.h"

namespace torchprof {
namespace {

using c10::InefficientStdFunctionContext;

std::atomic<uint64_t> version{1};  // of what threads know of blocks that they met

c10::DeleterFnPtr default_deleter() {
  static const c10::DeleterFnPtr deleter = c10::GetDefaultCPUAllocator()->raw_deleter();
  return deleter;
}

// What frees a block that a std::function frees. PyTorch does not export it.
c10::DeleterFnPtr function_deleter() {
  static const c10::DeleterFnPtr deleter =
      InefficientStdFunctionContext::makeDataPtr(nullptr, [](void*) {}, c10::Device(c10::DeviceType::CPU)).get_deleter();
  return deleter;
}

// Stands in front of the function that frees a block.
struct Followed {
  std::function<void(void*)> free;
  const void* address;
  uint64_t recording;  // the one that met it last

  void operator()(void* context) const {
    forget_blocks_met();
    record_free(address);
    if (free) {
      free(context);
    }
  }
};

// Whether this recording had not met the block.
bool follow(InefficientStdFunctionContext& context, const void* address) {
  static std::mutex mutex;
  const uint64_t recording = CpuAllocator::recording();
  const std::lock_guard lock(mutex);
  if (Followed* const known = context.deleter_.target<Followed>()) {
    return std::exchange(known->recording, recording) != recording;
  }
  context.deleter_ = Followed{std::move(context.deleter_), address, recording};
  return true;
}

}  // namespace

void follow_block(c10::StorageImpl& storage) {
  c10::DataPtr& data = storage._mutable_data_ptr_no_checks();
  if (data.get() != nullptr && data.get() == data.get_context() && data.get_deleter() == default_deleter()) {
    // In place, as other threads may look at the pointer meanwhile. The reference is called a moved one, but nothing moves.
    __atomic_store_n(&data.move_context().get_deleter(), &release_block, __ATOMIC_RELAXED);
    if (storage.allocator() == c10::GetDefaultCPUAllocator()) {
      storage.set_allocator(&recording_allocator());
    }
  }
}

void meet_block(ThreadLog& log, c10::StorageImpl& storage) {
  c10::DataPtr& data = storage._mutable_data_ptr_no_checks();
  const c10::DeleterFnPtr deleter = data.get_deleter();
  if (data.get() == nullptr) {
    return;
  }
  if (deleter == default_deleter()) {
    follow_block(storage);
    return;
  }
  const auto address = reinterpret_cast<uint64_t>(data.get());
  if (const uint64_t now = version.load(std::memory_order_relaxed); log.known_blocks_version != now) {
    log.known_blocks = {};
    log.known_blocks_version = now;
  }
  if (log.known_blocks.contains(address)) {
    return;
  }
  log.known_blocks.insert(address);
  const c10::SymInt bytes = storage.sym_nbytes();
  if (bytes.is_heap_allocated() || bytes.as_int_unchecked() == 0) {
    return;
  }
  const bool reports_free = deleter == function_deleter();
  if (!reports_free || follow(*static_cast<InefficientStdFunctionContext*>(data.get_context()), data.get())) {
    const bool owned = data.get_context() != nullptr;  // not by a tensor that was made with at::from_blob() and no deleter
    log.block_met(ticks(), address, owned ? bytes.as_int_unchecked() : 0, reports_free);
  }
}

void forget_blocks_met() { version.fetch_add(1, std::memory_order_relaxed); }

}  // namespace torchprof
