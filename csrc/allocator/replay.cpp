#include "allocator/replay.h"

#include <stdexcept>
#include <string>

namespace torchprof {

int64_t replay(CachingAllocator& allocator, const AllocatorEvent* events, size_t count, AllocatorTimeline* timeline) {
  for (size_t row = 0; row < count; ++row) {
    const AllocatorEvent& event = events[row];
    int64_t address = 0;
    try {
      if (event.bytes > 0) {
        address = allocator.allocate(event.id, event.bytes, event.stream);
        if (address == 0) {
          return static_cast<int64_t>(row);
        }
      } else if (event.stream == kFreeRequested) {
        allocator.request_free(event.id);
      } else if (event.stream == kEmptyCache) {
        allocator.empty_cache();
      } else if (event.stream == kReleaseAt) {
        allocator.release_at(event.id);
      } else if (event.stream == kNextSegmentAt) {
        allocator.place_next_segment(event.id);
      } else if (event.stream == kMapAt) {
        allocator.map_at(event.id);
      } else {
        allocator.free(event.id);
      }
    } catch (const std::invalid_argument& error) {
      throw std::invalid_argument("event " + std::to_string(row) + ": " + error.what());
    }
    if (timeline != nullptr) {
      timeline->allocated.push_back(allocator.stats().allocated);
      timeline->reserved.push_back(allocator.stats().reserved);
      timeline->addresses.push_back(address);
    }
  }
  return -1;
}

}  // namespace torchprof
