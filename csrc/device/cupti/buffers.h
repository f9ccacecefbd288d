// The buffers that CUPTI fills with records. CUPTI requests empty buffers and returns full ones on a thread of its own, some time
// after a flush. A process has one pair of callbacks for this, and CUPTI keeps it for good, so there is one Buffers object and it is
// never destroyed. Another user of CUPTI may replace the callbacks. Then its buffers may be returned here, and some of these are lost.
//
// No lock is held while CUPTI is called. It may call back at once, or hold a lock of its own while another of its threads waits for
// one of these.
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

  // Makes CUPTI use these buffers. Throws DeviceRecorderError.
  void attach(const Api& api);

  // Where records are written; nullptr: nowhere.
  void deliver_to(DeviceLog* log);

  // Calls change() while no record is delivered.
  template <typename Change>
  void while_none_arrives(Change change) {
    const std::lock_guard lock(log_mutex_);
    change();
  }

  // Whether CUPTI returns all buffers, now or within two seconds.
  bool all_returned();

  // Frees the buffers that were returned. The others are leaked, because they may still be written to.
  void release();

 private:
  static void requested(uint8_t** buffer, size_t* size, size_t* max_records);
  static void completed(void* context, uint32_t stream, uint8_t* buffer, size_t size, size_t valid);
  void read(uint8_t* buffer, size_t valid);

  std::mutex buffers_mutex_;
  std::condition_variable returned_;
  std::vector<uint8_t*> empty_;
  std::unordered_set<uint8_t*> in_use_;
  bool may_refuse_ = false;

  std::mutex log_mutex_;
  DeviceLog* log_ = nullptr;

  std::atomic<const Api*> api_{nullptr};
};

}  // namespace torchprof::cupti
