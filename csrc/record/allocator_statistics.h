// The totals that allocators of devices report along with each block. Most follow from the reports of blocks and need no row:
//
//   +512, 1536 in total ──►  changed: 1024 bytes were allocated without a report
//   +512, 2048 in total ──►  not changed
#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <utility>

#include "trace/rows.h"

namespace torchprof {

// Threads share it. Their reports come in order, because the allocator makes them under its own lock.
class AllocatorStatistics {
 public:
  // Whether these totals say more than the reports of blocks so far. `bytes` is the block they were reported with; 0: not recorded.
  bool changed(const AllocatorTotal& total, int64_t bytes);

 private:
  struct Device {
    int64_t reported = 0;
    int64_t unreported = 0;
    int64_t reserved = 0;
    bool has_totals = false;  // an allocator that keeps none reports zeros
  };
  std::mutex mutex_;
  std::map<std::pair<int8_t, int8_t>, Device> devices_;
};

}  // namespace torchprof
