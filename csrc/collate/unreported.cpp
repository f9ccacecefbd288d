#include "collate/unreported.h"

#include <unordered_map>

namespace torchprof {
namespace {

class Unreported {
 public:
  explicit Unreported(const std::vector<AllocatorTotal>& news) {
    for (const AllocatorTotal& total : news) {
      devices_.try_emplace({total.device_type, total.device_index});
    }
  }

  void hear(const AllocatorTotal& total) {
    Device& device = devices_.at({total.device_type, total.device_index});
    device.now = total;
    device.heard = true;
    tell(device);
  }

  void follow(const MemoryEvent& event) {
    const auto found = devices_.find({event.device_type, event.device_index});
    if (found == devices_.end()) {
      return;
    }
    Device& device = found->second;
    int64_t& block = blocks_[event.address];
    device.held += event.bytes > 0 ? event.bytes - block : -(block != 0 ? block : -event.bytes);
    block = event.bytes > 0 ? event.bytes : 0;
    device.now.allocated += event.bytes;
    device.now.time = event.time;
  }

  // After what was heard: news of this very report are not told twice.
  void tell(const MemoryEvent& event) {
    const auto found = devices_.find({event.device_type, event.device_index});
    if (found != devices_.end() && found->second.heard) {
      tell(found->second);
    }
  }

  std::vector<AllocatorTotal> rows;

 private:
  struct Device {
    AllocatorTotal now{};
    AllocatorTotal told{};
    int64_t held = 0;  // as the allocations have it
    bool heard = false;
  };

  void tell(Device& device) {
    device.now.unreported = device.now.allocated - device.held;
    if (device.told.reserved != device.now.reserved || device.told.unreported != device.now.unreported) {
      device.told = device.now;
      rows.push_back(device.now);
    }
  }

  std::map<std::pair<int8_t, int8_t>, Device> devices_;
  std::unordered_map<uint64_t, int64_t> blocks_;  // address -> bytes; 0: given back
};

}  // namespace

bool AllocatorNews::is_news(const AllocatorTotal& total, int64_t bytes) {
  const std::lock_guard lock(mutex_);
  Device& device = devices_[{total.device_type, total.device_index}];
  device.reported += bytes;
  const int64_t unreported = total.allocated - device.reported;
  if (device.counts ? unreported == device.unreported && total.reserved == device.reserved
                    : total.allocated == 0 && total.reserved == 0) {
    return false;
  }
  device.unreported = unreported;
  device.reserved = total.reserved;
  device.counts = true;
  return true;
}

std::vector<AllocatorTotal> find_unreported(const std::vector<AllocatorTotal>& news, const std::vector<MemoryEvent>& events) {
  if (news.empty()) {
    return {};
  }
  Unreported found(news);
  auto next = news.begin();
  const auto hear_until = [&](int64_t time) {
    for (; next != news.end() && next->time <= time; ++next) {
      found.hear(*next);
    }
  };
  for (const MemoryEvent& event : events) {
    hear_until(event.time - 1);  // of reports that did not fit the budget
    found.follow(event);
    hear_until(event.time);
    found.tell(event);
  }
  hear_until(INT64_MAX);
  return std::move(found.rows);
}

}  // namespace torchprof
