// The buffers that CUPTI fills with records. It asks for empty ones and hands them back full, on a thread of its own, somewhat
// later than it was told to; it knows one pair of callbacks in a process and keeps it for good, so there is one of these and it is
// never torn down. Another user of CUPTI may take the callbacks over: then its buffers may come here, and ours be lost.
//
// No lock is held while CUPTI is called: it may call back from inside, or hold a lock of its own while another of its threads waits
// for ours.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <unordered_set>
#include <vector>

#include "device/cupti/api.h"
#include "trace/device_log.h"

namespace torchprof::cupti {

class Buffers {
 public:
  static Buffers& of_process();

  // Makes CUPTI use these. Throws Error.
  void attach(const Api& api);

  // Where records go; nullptr: nowhere.
  void deliver_to(DeviceLog* log);

  // Calls change() while no record is delivered.
  template <typename Change>
  void while_none_arrives(Change change) {
    const std::lock_guard lock(log_mutex_);
    change();
  }

  // Whether all that were given out have come back, now or within two seconds.
  bool all_returned();

  // Frees those that came back and forgets the others, which whoever has them may still write to.
  void release();

 private:
  static void requested(uint8_t** buffer, size_t* size, size_t* max_records);
  static void completed(void* context, uint32_t stream, uint8_t* buffer, size_t size, size_t valid);
  void read(uint8_t* buffer, size_t valid);

  std::mutex buffers_mutex_;
  std::condition_variable returned_;
  std::vector<uint8_t*> empty_;
  std::unordered_set<uint8_t*> given_out_;
  bool may_refuse_ = false;

  std::mutex log_mutex_;
  DeviceLog* log_ = nullptr;

  std::atomic<const Api*> api_{nullptr};
};

}  // namespace torchprof::cupti
