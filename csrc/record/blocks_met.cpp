#include "record/blocks_met.h"

#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/COW.h>

#include <atomic>
#include <functional>
#include <mutex>
#include <utility>

#include "record/thread_slot.h"
#include "record/watched_storages.h"
#include "trace/clock.h"

namespace torchprof {
namespace {

using c10::InefficientStdFunctionContext;

std::atomic<uint64_t> version{1};  // of what threads know of storages that they met
std::atomic<c10::DeleterFnPtr> slice_deleter{nullptr};

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
  uint32_t storage;    // its number there

  void operator()(void* context) const {
    forget_blocks_met();
    if (const LogWriter writer(Event::kAllocation); writer.log() != nullptr && CpuAllocator::recording() == recording) {
      writer.log()->storage_ended(ticks(), storage, true);
    } else {
      record_free(address);
    }
    if (free) {
      free(context);
    }
  }
};

// The number of a storage that this recording had not met.
uint32_t follow(InefficientStdFunctionContext& context, const void* address) {
  const uint64_t recording = CpuAllocator::recording();
  const std::lock_guard lock(watched_storages().mutex());
  Followed* const known = context.deleter_.target<Followed>();
  if (known != nullptr && known->recording == recording) {
    return WatchedStorages::kKnown;
  }
  const uint32_t number = WatchedStorages::next_number();
  if (known != nullptr) {
    known->recording = recording;
    known->storage = number;
  } else {
    std::function<void(void*)> followed = Followed{{}, address, recording, number};
    followed.target<Followed>()->free = std::move(context.deleter_);  // nothing fails from here on
    context.deleter_ = std::move(followed);
  }
  return number;
}

// Another storage with the same memory is another one, and so is a storage that exchanges its memory.
uint64_t identity(const c10::StorageImpl& storage, uint64_t address) {
  return reinterpret_cast<uint64_t>(&storage) * UINT64_C(0x9E3779B97F4A7C15) + address;
}

// The storage whose memory a slice is a part of; that storage itself, if it is no slice.
c10::StorageImpl& whole(c10::StorageImpl& storage) {
  const c10::DeleterFnPtr of_slices = slice_deleter.load(std::memory_order_relaxed);
  c10::StorageImpl* found = &storage;
  while (of_slices != nullptr && found->_mutable_data_ptr_no_checks().get_deleter() == of_slices) {
    found = static_cast<c10::StorageImpl*>(found->_mutable_data_ptr_no_checks().get_context());
  }
  return *found;
}

Ends ends_with(c10::StorageImpl& storage) {
  const c10::DataPtr& data = storage._mutable_data_ptr_no_checks();
  const c10::DeleterFnPtr deleter = data.get_deleter();
  if (data.get_context() == nullptr || deleter == default_deleter() || deleter == &release_block ||
      c10::impl::cow::is_cow_data_ptr(data)) {
    return Ends::kNothing;
  }
  return deleter == function_deleter() ? Ends::kItself : Ends::kAround;
}

}  // namespace

void know_slices(c10::StorageImpl& slice) {
  slice_deleter.store(slice._mutable_data_ptr_no_checks().get_deleter(), std::memory_order_relaxed);
}

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
  const uint64_t known = identity(storage, address);
  if (log.known_blocks.contains(known)) {
    return;
  }
  const c10::SymInt bytes = storage.sym_nbytes();
  if (bytes.is_heap_allocated() || bytes.as_int_unchecked() == 0) {
    log.known_blocks.insert(known);
    return;
  }
  c10::StorageImpl& mapped = whole(storage);
  Ends ends = ends_with(mapped);
  if (&mapped != &storage && ends == Ends::kAround) {
    if (const uint32_t number = watched_storages().watch(log, mapped, false); number != WatchedStorages::kKnown) {
      log.block_met(ticks(), reinterpret_cast<uint64_t>(mapped._mutable_data_ptr_no_checks().get()), 0, number, ends);
    }
    ends = Ends::kItself;
  }
  const uint32_t number = deleter == function_deleter()
                              ? follow(*static_cast<InefficientStdFunctionContext*>(data.get_context()), data.get())
                              : watched_storages().watch(log, storage, true);
  if (number != WatchedStorages::kKnown) {
    // No memory is owned by a tensor that was made with at::from_blob() and no deleter.
    const bool owned = mapped._mutable_data_ptr_no_checks().get_context() != nullptr;
    log.block_met(ticks(), address, owned ? bytes.as_int_unchecked() : 0, number, ends);
  }
  log.known_blocks.insert(known);
}

void forget_blocks_met() { version.fetch_add(1, std::memory_order_relaxed); }

}  // namespace torchprof
