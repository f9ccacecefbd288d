// Events that befall a CachingAllocator, one after the other.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "allocator/caching_allocator.h"

namespace torchprof {

// bytes > 0: `id` is allocated on `stream`. Otherwise it is freed, or, with a negative stream, something else happens.
struct AllocatorEvent {
  int64_t id;
  int64_t bytes;
  int64_t stream;
};
inline constexpr int64_t kFreeRequested = -1;   // `id` is freed but another stream still uses it, until its free follows
inline constexpr int64_t kEmptyCache = -2;      // torch.cuda.empty_cache()
inline constexpr int64_t kReleaseAt = -3;       // the free block around the address `id` goes back to the device
inline constexpr int64_t kNextSegmentAt = -4;   // the next allocation takes memory from the device; a new segment begins at `id`

// After each event.
struct AllocatorTimeline {
  std::vector<int64_t> allocated;
  std::vector<int64_t> reserved;
  std::vector<int64_t> addresses;  // of what was allocated; 0 for other events
};

// Lets events happen until one does not fit. Returns its row, or -1. Exceptions name the row.
int64_t replay(CachingAllocator& allocator, const AllocatorEvent* events, size_t count, AllocatorTimeline* timeline);

}  // namespace torchprof
