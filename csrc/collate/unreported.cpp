#include "collate/unreported.h"

#include <cstdint>
#include <map>
#include <unordered_map>
#include <utility>

namespace torchprof {
namespace {

class Unreported {
 public:
  explicit Unreported(const std::vector<AllocatorTotal>& totals) {
    for (const AllocatorTotal& total : totals) {
      devices_.try_emplace({total.device_type, total.device_index});
    }
  }

  void update(const AllocatorTotal& total) {
    Device& device = devices_.at({total.device_type, total.device_index});
    device.now = total;
    device.has_totals = true;
    add_row_if_changed(device);
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

  // Comes after update() with the totals of the same report, which then adds no second row.
  void add_row_if_changed(const MemoryEvent& event) {
    const auto found = devices_.find({event.device_type, event.device_index});
    if (found != devices_.end() && found->second.has_totals) {
      add_row_if_changed(found->second);
    }
  }

  std::vector<AllocatorTotal> rows;

 private:
  struct Device {
    AllocatorTotal now{};
    AllocatorTotal latest_row{};
    int64_t held = 0;  // according to the allocations
    bool has_totals = false;
  };

  void add_row_if_changed(Device& device) {
    device.now.unreported = device.now.allocated - device.held;
    if (device.latest_row.reserved != device.now.reserved || device.latest_row.unreported != device.now.unreported) {
      device.latest_row = device.now;
      rows.push_back(device.now);
    }
  }

  std::map<std::pair<int8_t, int8_t>, Device> devices_;
  std::unordered_map<uint64_t, int64_t> blocks_;  // address -> bytes; 0: freed
};

}  // namespace

std::vector<AllocatorTotal> find_unreported(const std::vector<AllocatorTotal>& totals, const std::vector<MemoryEvent>& events) {
  if (totals.empty()) {
    return {};
  }
  Unreported found(totals);
  auto next = totals.begin();
  const auto update_until = [&](int64_t time) {
    for (; next != totals.end() && next->time <= time; ++next) {
      found.update(*next);
    }
  };
  for (const MemoryEvent& event : events) {
    update_until(event.time - 1);  // totals whose event did not fit the budget
    found.follow(event);
    update_until(event.time);
    found.add_row_if_changed(event);
  }
  update_until(INT64_MAX);
  return std::move(found.rows);
}

}  // namespace torchprof
