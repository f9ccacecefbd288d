// Storages that were met and whose end nobody reports: mapped and shared memory, and slices of either. A weak pointer tells of their
// end. It keeps the object that a storage is, and not its memory, and is dropped when the end was seen.
//
//   met ─► watch() ──────────────────────────────► note_ended(), at the next storage that is met, mark or end of a step
//   storage  ────────────── its memory is freed ─╯     └─► log: the number of the storage
#pragma once

#include <c10/core/StorageImpl.h>
#include <c10/util/intrusive_ptr.h>

#include <atomic>
#include <cstdint>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "trace/thread_log.h"

namespace torchprof {

class WatchedStorages {
 public:
  using Pointer = c10::weak_intrusive_ptr<c10::StorageImpl>;
  static constexpr uint32_t kKnown = 0;  // in place of a number

  WatchedStorages();
  WatchedStorages(const WatchedStorages&) = delete;
  WatchedStorages& operator=(const WatchedStorages&) = delete;

  static uint32_t next_number() { return latest_.fetch_add(1, std::memory_order_relaxed) + 1; }

  // The number of a storage that is in use now; kKnown if it was watched with this memory before. `met`: it was used, and not only a
  // slice of it.
  uint32_t watch(ThreadLog& log, c10::StorageImpl& storage, bool met);

  // What has ended since the last time.
  void note_ended();

  // When a recording ends.
  void clear();

  std::mutex& mutex() { return mutex_; }  // of everything about storages that were met

 private:
  struct Watched {
    Pointer storage;
    const void* address;  // which a storage may exchange
    uint32_t number;
    std::string file;  // see mapped_file()
    bool met;
  };

  static Watched watched(c10::StorageImpl& storage, Pointer pointer, bool met);
  static void note_end(ThreadLog& log, const Watched& ended, int64_t now);

  void note_ended(ThreadLog& log, std::vector<Pointer>& ended);

  static inline std::atomic<uint32_t> latest_{0};
  std::mutex mutex_;
  std::unordered_map<const c10::StorageImpl*, Watched> watched_;
  size_t since_looked_ = 0;  // storages that are watched since all were looked at
};

// Leaked: a recording may outlive the statics of this library.
WatchedStorages& watched_storages();

}  // namespace torchprof
