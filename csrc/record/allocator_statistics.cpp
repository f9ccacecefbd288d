#include "record/allocator_statistics.h"

namespace torchprof {

bool AllocatorStatistics::changed(const AllocatorTotal& total, int64_t bytes) {
  const std::lock_guard lock(mutex_);
  Device& device = devices_[{total.device_type, total.device_index}];
  device.reported += bytes;
  const int64_t unreported = total.allocated - device.reported;
  if (device.has_totals ? unreported == device.unreported && total.reserved == device.reserved
                        : total.allocated == 0 && total.reserved == 0) {
    return false;
  }
  device.unreported = unreported;
  device.reserved = total.reserved;
  device.has_totals = true;
  return true;
}

}  // namespace torchprof
