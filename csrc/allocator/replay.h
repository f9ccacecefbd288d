// Runs a sequence of events on a CachingAllocator.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "allocator/caching_allocator.h"

namespace torchprof {

// bytes > 0: `id` is allocated on `stream`. Otherwise `id` is freed, or `stream` is one of the constants below.
struct AllocatorEvent {
  int64_t id;
  int64_t bytes;
  int64_t stream;
};
inline constexpr int64_t kFreeRequested = -1;  // `id` is freed, but another stream uses it until its free follows
inline constexpr int64_t kEmptyCache = -2;     // torch.cuda.empty_cache()
inline constexpr int64_t kReleaseAt = -3;      // the free block around the address `id` is released to the device
inline constexpr int64_t kNextSegmentAt =
    -4;                                // the next allocation reserves memory of the device; a new segment begins at `id`
inline constexpr int64_t kMapAt = -5;  // the page of an expandable segment at the address `id` is mapped, for no allocation

// After each event.
struct AllocatorTimeline {
  std::vector<int64_t> allocated;
  std::vector<int64_t> reserved;
  std::vector<int64_t> addresses;  // of the allocated block; 0 for other events
};

// Runs events until one runs out of memory. Returns its row, or -1. Exceptions name the row.
int64_t replay(CachingAllocator& allocator, const AllocatorEvent* events, size_t count, AllocatorTimeline* timeline);

}  // namespace torchprof
