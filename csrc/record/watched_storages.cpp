#include "record/watched_storages.h"

#include <ATen/MapAllocator.h>
#include <libshm.h>
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>
#include <exception>
#include <fstream>
#include <string>
#include <utility>

#include "record/blocks_met.h"
#include "record/cpu_allocator.h"
#include "record/thread_slot.h"
#include "trace/clock.h"

namespace torchprof {
namespace {

// Of the storages that are watched, one in so many is looked at for each new one.
constexpr size_t kShare = 8;

const void* address_of(c10::StorageImpl& storage) { return storage._mutable_data_ptr_no_checks().get(); }

// Not by a strong pointer, which would take a reference to the storage's object in Python for a moment.
WatchedStorages::Pointer weak(c10::StorageImpl& storage) {
  c10::raw::weak_intrusive_ptr::incref(&storage);
  return WatchedStorages::Pointer::reclaim(&storage);
}

// The name of the file that a storage is a mapping of, without its folder; empty: it is no mapping of PyTorch's.
std::string mapped_file(c10::StorageImpl& storage) {
  const c10::DataPtr& data = storage._mutable_data_ptr_no_checks();
  const at::MapAllocator* mapping = at::MapAllocator::fromDataPtr(data);
  mapping = mapping != nullptr ? mapping : at::RefcountedMapAllocator::fromDataPtr(data);
  mapping = mapping != nullptr ? mapping : THManagedMapAllocator::fromDataPtr(data);
  const std::string path = mapping != nullptr ? mapping->filename() : "";
  return path.substr(path.rfind('/') + 1);
}

// Whether a file is mapped at an address.
bool is_mapped([[maybe_unused]] const std::string& file, [[maybe_unused]] const void* address) {
#if defined(__linux__)
  const auto at = reinterpret_cast<uintptr_t>(address);
  static const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  unsigned char resident = 0;
  if (mincore(reinterpret_cast<void*>(at / page * page), 1, &resident) != 0) {
    return false;
  }
  std::ifstream maps("/proc/self/maps");
  // Otherwise a stream keeps to itself that there is no memory for a line.
  maps.exceptions(std::ifstream::badbit);
  for (std::string line; std::getline(maps, line);) {  // 7f98-7fa4 rw-s 00000000 00:19 3 /dev/shm/torch_9
    char* last = nullptr;
    const uintptr_t first = std::strtoull(line.c_str(), &last, 16);
    if (first <= at && *last == '-' && at < std::strtoull(last + 1, nullptr, 16)) {
      return line.find(file) != std::string::npos;
    }
  }
#endif
  return false;
}

}  // namespace

WatchedStorages& watched_storages() {
  static auto* const instance = new WatchedStorages;
  return *instance;
}

WatchedStorages::WatchedStorages() {
  pthread_atfork([] { watched_storages().mutex_.lock(); }, [] { watched_storages().mutex_.unlock(); },
                 [] { watched_storages().mutex_.unlock(); });
}

uint32_t WatchedStorages::watch(ThreadLog& log, c10::StorageImpl& storage, bool met) {
  std::vector<Pointer> ended;  // let go without the lock
  const std::lock_guard lock(mutex_);
  if (CpuAllocator::recording() == 0) {
    return kKnown;
  }
  const void* const address = address_of(storage);
  const auto found = watched_.find(&storage);
  if (found == watched_.end()) {
    if (++since_looked_ > watched_.size() / kShare) {
      note_ended(log, ended);
    }
    return watched_.try_emplace(&storage, watched(storage, weak(storage), met)).first->second.number;
  }
  Watched& known = found->second;
  if (known.address != address) {
    note_end(log, known, ticks());
    known = watched(storage, std::move(known.storage), met);
    return known.number;
  }
  return std::exchange(known.met, known.met || met) || !met ? kKnown : known.number;
}

void WatchedStorages::note_ended() {
  std::vector<Pointer> ended;
  const std::lock_guard lock(mutex_);
  if (watched_.empty()) {
    return;
  }
  const LogWriter writer;
  if (ThreadLog* const log = writer.log()) {
    try {
      note_ended(*log, ended);
    } catch (const std::exception&) {  // what is left of them is noted the next time
      log->blocks_met.drop();
    }
  }
}

void WatchedStorages::note_ended(ThreadLog& log, std::vector<Pointer>& ended) {
  since_looked_ = 0;
  const int64_t now = ticks();
  for (auto each = watched_.begin(); each != watched_.end();) {
    Watched& watched = each->second;
    if (!watched.storage.expired() && address_of(*watched.storage._unsafe_get_target()) == watched.address) {
      ++each;
      continue;
    }
    ended.reserve(watched_.size());
    note_end(log, watched, now);
    ended.push_back(std::move(watched.storage));
    each = watched_.erase(each);
  }
  if (!ended.empty()) {
    forget_blocks_met();  // another storage may be where one of these was
  }
}

WatchedStorages::Watched WatchedStorages::watched(c10::StorageImpl& storage, Pointer pointer, bool met) {
  return {std::move(pointer), address_of(storage), next_number(), mapped_file(storage), met};
}

// A tensor that is shared takes the memory of a new storage, which ends: its copy is not freed.
void WatchedStorages::note_end(ThreadLog& log, const Watched& ended, int64_t now) {
  const bool is_left = !ended.file.empty() && is_mapped(ended.file, ended.address);
  log.storage_ended(now, ended.number, false, is_left ? Ends::kNothing : Ends::kAround);
}

void WatchedStorages::clear() {
  std::unordered_map<const c10::StorageImpl*, Watched> watched;
  const std::lock_guard lock(mutex_);
  watched_.swap(watched);
  since_looked_ = 0;
}

}  // namespace torchprof
