#include "record/memory_guard.h"

#include <ATen/ATen.h>
#include <ATen/MapAllocator.h>
#include <ATen/record_function.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <optional>

#include "record/arguments.h"
#include "record/free_memory.h"
#include "record/pause.h"
#include "record/tensor_reader.h"
#include "record/written_arguments.h"

namespace torchprof {
namespace {

// Leaked: threads may end after the statics of this library are destroyed.
struct Guards {
  std::mutex mutex;
  std::vector<MemoryGuard*> started;
  at::CallbackHandle handle = at::INVALID_CALLBACK_HANDLE;
};

Guards& guards() {
  static auto* const instance = new Guards;
  return *instance;
}

#if defined(__linux__)
[[gnu::tls_model("initial-exec")]]
#endif
thread_local bool copying = false;
std::atomic<uint64_t> passes{0};  // guards that were started

// Inside, ops run as plain kernels: nobody observes them, and no mode, transform or subclass takes part.
class Unseen {
 public:
  Unseen() : before_(copying) {
    copying = true;
    pause_recording();
  }
  ~Unseen() {
    resume_recording();
    copying = before_;
  }
  Unseen(const Unseen&) = delete;
  Unseen& operator=(const Unseen&) = delete;

 private:
  static constexpr c10::DispatchKeySet kAboveKernels =
      c10::DispatchKeySet(c10::DispatchKeySet::FULL) -
      c10::DispatchKeySet(c10::DispatchKeySet::FULL_AFTER, c10::DispatchKey::Python).remove(c10::DispatchKey::PythonDispatcher);

  const bool before_;
  const at::DisableRecordFunctionGuard no_observers_;
  const c10::impl::ExcludeDispatchKeyGuard no_modes_{kAboveKernels};
};

void before_write_to(const c10::IValue& value, bool contents) {
  const c10::TensorImpl* const tensor = value.unsafeToTensorImpl();
  if (!is_readable(tensor)) {
    return;
  }
  if (c10::StorageImpl* const storage = tensor->unsafe_storage().unsafeGetStorageImpl()) {
    for (MemoryGuard* const guard : guards().started) {
      guard->before_write(*storage, contents);
    }
  }
}

// No exception may leave a callback.
std::unique_ptr<at::ObserverContext> before_op(const at::RecordFunction& function) {
  if (copying) {
    return nullptr;
  }
  try {
    const WrittenArguments& written = written_arguments(function, passes.load(std::memory_order_relaxed));
    if (written.empty()) {
      return nullptr;
    }
    const auto inputs = arguments_of(function);
    const auto condition = static_cast<size_t>(written.condition);
    if (written.condition >= 0 && condition < inputs.size() && inputs[condition].isBool() && !inputs[condition].toBool()) {
      return nullptr;
    }
    const std::lock_guard lock(guards().mutex);
    for (const uint16_t row : written.rows) {
      if (row >= inputs.size()) {
        continue;
      }
      if (const c10::IValue& value = inputs[row]; value.isTensor()) {
        before_write_to(value, written.contents);
      } else if (value.isList()) {
        for (const c10::IValue& element : value.toListRef()) {
          if (element.isTensor()) {
            before_write_to(element, written.contents);
          }
        }
      }
    }
  } catch (...) {
  }
  return nullptr;
}

uint64_t address(c10::StorageImpl& storage) { return reinterpret_cast<uint64_t>(storage._mutable_data_ptr_no_checks().get()); }

uint64_t size(const c10::StorageImpl& storage) {
  return static_cast<uint64_t>(storage.sym_nbytes().maybe_as_int().value_or(0));
}

// All bytes of a storage, as a tensor.
at::Tensor bytes_of(const c10::Storage& storage, int64_t count) {
  const auto key = c10::computeDispatchKey(c10::kByte, c10::kStrided, storage.device());
  auto bytes = at::detail::make_tensor<c10::TensorImpl>(c10::Storage(storage), c10::DispatchKeySet(key),
                                                        c10::scalarTypeToTypeMeta(c10::kByte));
  bytes.unsafeGetTensorImpl()->set_sizes_contiguous({count});
  return bytes;
}

}  // namespace

void MemoryGuard::Free::operator()(void* memory) const { std::free(memory); }

size_t MemoryGuard::add(const c10::Storage& storage) {
  c10::StorageImpl& impl = *storage.unsafeGetStorageImpl();
  const auto [found, is_new] = rows_.try_emplace(&impl, blocks_.size());
  if (is_new) {
    const uint64_t begin = address(impl);
    blocks_.push_back({storage, begin, begin + size(impl)});
  }
  return found->second;
}

void MemoryGuard::copy(size_t row) {
  if (!blocks_[row].copied) {
    copy(blocks_[row]);
  }
}

void MemoryGuard::start() {
  ranges_.reserve(blocks_.size());
  for (size_t row = 0; row < blocks_.size(); ++row) {
    if (const Block& block = blocks_[row]; block.begin != 0 && block.begin < block.end) {
      ranges_.push_back({block.begin, block.end, 0, row});
    }
  }
  std::sort(ranges_.begin(), ranges_.end(), [](const Range& a, const Range& b) { return a.begin < b.begin; });
  uint64_t last_end = 0;
  for (Range& range : ranges_) {
    range.last_end = last_end = std::max(last_end, range.end);
  }
  Guards& all = guards();
  const std::lock_guard lock(all.mutex);
  ++passes;
  all.started.push_back(this);
  if (all.started.size() == 1) {
    all.handle =
        at::addGlobalCallback(at::RecordFunctionCallback(&before_op).needsInputs(true).scopes({at::RecordScope::FUNCTION}));
  }
  started_ = true;
}

void MemoryGuard::stop() {
  if (!started_) {
    return;
  }
  started_ = false;
  Guards& all = guards();
  const std::lock_guard lock(all.mutex);
  std::erase(all.started, this);
  if (all.started.empty()) {
    at::removeCallback(all.handle);
  }
}

void MemoryGuard::before_write(c10::StorageImpl& storage, bool contents) {
  const auto touch = [contents](Block& block) {
    block.named = true;
    if (contents && !block.copied && block.failure.empty()) {
      copy(block);
    }
  };
  if (const auto found = rows_.find(&storage); found != rows_.end()) {
    touch(blocks_[found->second]);
  }
  // Others may be on the same memory, in whole or in part. From the last block that begins before `end`, back to where none reaches
  // `begin`.
  const uint64_t begin = address(storage);
  const uint64_t end = begin + size(storage);
  auto range = std::lower_bound(ranges_.begin(), ranges_.end(), end, [](const Range& a, uint64_t at) { return a.begin < at; });
  while (range != ranges_.begin() && std::prev(range)->last_end > begin) {
    --range;
    if (range->end > begin) {
      touch(blocks_[range->row]);
    }
  }
}

void MemoryGuard::copy(Block& block) {
  const uint64_t bytes = block.end - block.begin;
  if (bytes == 0 || block.begin == 0) {
    return;
  }
  c10::StorageImpl& storage = *block.storage.unsafeGetStorageImpl();
  if (size(storage) < bytes) {
    block.failure = "its memory was freed";
    return;
  }
  try {
    const Unseen unseen;
    if (storage.device().is_cpu()) {
      // The system promises more memory than it has, and ends the process that uses it.
      void* const memory = may_allocate(bytes) ? std::malloc(bytes) : nullptr;
      if (memory == nullptr) {
        block.failure = "there is no memory for a copy";
        return;
      }
      block.on_host.reset(memory);
      std::memcpy(memory, reinterpret_cast<const void*>(address(storage)), bytes);
    } else {
      block.on_device = bytes_of(block.storage, static_cast<int64_t>(bytes)).clone();
    }
    block.copied = true;
  } catch (const c10::OutOfMemoryError&) {
    block.failure = "there is no memory for a copy";
  } catch (const std::exception& error) {
    block.failure = error.what();
  }
}

void MemoryGuard::restore() {
  for (Block& block : blocks_) {
    try {
      restore(block);
    } catch (const std::exception& error) {
      block.failure = error.what();
    }
  }
}

void MemoryGuard::restore(Block& block) {
  c10::StorageImpl& storage = *block.storage.unsafeGetStorageImpl();
  const uint64_t bytes = block.end - block.begin;
  const bool has_moved = address(storage) != block.begin || size(storage) != bytes;
  if (!block.copied && !has_moved) {
    return;
  }
  const Unseen unseen;
  if (!block.copied && has_moved && size(storage) == bytes &&
      at::MapAllocator::fromDataPtr(storage._mutable_data_ptr_no_checks()) != nullptr) {
    copy(block);  // it was moved to memory that processes share, with its contents
  }
  if (has_moved && storage.sym_nbytes().maybe_as_int()) {
    const c10::DeviceGuard device(storage.device());
    if (block.copied) {
      at::Allocator* const own = storage.allocator();
      storage.set_data_ptr_noswap((own != nullptr ? own : c10::GetAllocator(storage.device_type()))->allocate(bytes));
    } else if (bytes == 0) {
      storage.set_data_ptr_noswap({nullptr, storage.device()});
    } else if (block.begin != 0 && size(storage) <= bytes) {  // a resize to more bytes keeps those that were there
      block.failure = "its memory was freed";
      return;
    }
    storage.set_nbytes(bytes);
  }
  if (block.on_host) {
    std::memcpy(storage._mutable_data_ptr_no_checks().get(), block.on_host.get(), bytes);
  } else if (block.on_device.defined()) {
    bytes_of(block.storage, static_cast<int64_t>(bytes)).copy_(block.on_device);
  }
}

}  // namespace torchprof
