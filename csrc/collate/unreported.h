// What allocators of devices say they have in total, beside what they report block by block.
//
//   +512, 1536 in total ──►  1024 are unreported: from before the recording, or of a thread that reports elsewhere
//   +512, 2048 in total ──►  no news
#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <utility>
#include <vector>

#include "trace/events.h"

namespace torchprof {

// Tells what does not follow from the reports so far. Threads share it; the allocator's own lock has ordered their reports.
class AllocatorNews {
 public:
  // Whether a total, as it is after a report of so many bytes, is news.
  bool is_news(const AllocatorTotal& total, int64_t bytes);

 private:
  struct Device {
    int64_t reported = 0;
    int64_t unreported = 0;
    int64_t reserved = 0;
    bool counts = false;  // an allocator may keep no totals
  };
  std::mutex mutex_;
  std::map<std::pair<int8_t, int8_t>, Device> devices_;
};

// What is unreported, in the sense of the table of allocations: a block that is handed out twice was given back in between, and one
// that is given back only is from before. `news` and `events` are in order of time, and news have the times of their events.
std::vector<AllocatorTotal> find_unreported(const std::vector<AllocatorTotal>& news, const std::vector<MemoryEvent>& events);

}  // namespace torchprof
