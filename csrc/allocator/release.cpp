// How a CachingAllocator releases memory to the device: on request, when it runs out of memory, and by garbage collection.
#include <algorithm>
#include <limits>
#include <utility>

#include "allocator/caching_allocator.h"

namespace torchprof {

void CachingAllocator::empty_cache() { release_cached(); }

bool CachingAllocator::release_at(int64_t address) {
  for (Pool* const pool : {&blocks_.small, &blocks_.large}) {
    const auto found = std::find_if(pool->free.begin(), pool->free.end(), [&](const Block* block) {
      return block->address <= address && address < block->address + block->size;
    });
    if (found == pool->free.end()) {
      continue;
    }
    Block* const block = *found;
    if (block->range != nullptr) {
      unmap(block);
      return true;
    }
    if (!block->is_split()) {
      release_segment(block);
      return true;
    }
    return false;
  }
  return false;
}

// If more than a share of the limit is reserved: releases the segments of the large pool that have been free for longest.
void CachingAllocator::collect_garbage() {
  Pool& large = blocks_.large;
  const auto threshold = static_cast<int64_t>(settings_.garbage_collection_threshold * static_cast<double>(limit_));
  const int64_t wanted = stats_.reserved - threshold;
  const auto age = [&](const Block* block) { return large.searches - block->age_base; };
  int64_t ages = 0, count = 0, released = 0;
  for (const Block* block : large.free) {
    if (!block->is_split()) {
      ages += age(block);
      ++count;
    }
  }
  for (bool found = true; released < wanted && found && count > 0;) {
    const double average = static_cast<double>(ages) / static_cast<double>(count);
    found = false;
    for (auto it = large.free.begin(); it != large.free.end();) {
      Block* const block = *it++;
      if (!block->is_split() && block->range == nullptr && static_cast<double>(age(block)) >= average) {
        found = true;
        released += block->size;
        ages -= age(block);
        --count;
        release_segment(block);
      }
    }
  }
}

// With max_split_size: releases one cached block that is large enough, or the largest ones until their sum is. False if that was not
// possible.
bool CachingAllocator::release_oversize(Pool& pool, int64_t size, int64_t stream) {
  if (settings_.max_split_size == std::numeric_limits<int64_t>::max()) {
    return false;
  }
  const int64_t wanted = std::max(size, settings_.max_split_size);
  auto it = pool.free.lower_bound(Key{stream, wanted, 0});
  if (it != pool.free.end() && (*it)->stream == stream && (*it)->range == nullptr) {
    // A block of that size is not split, so it is its whole segment.
    if (!(*it)->is_split()) {
      release_segment(*it);
    }
    return true;
  }
  int64_t released = 0;
  while (released < wanted && it != pool.free.begin()) {
    Block* const block = *--it;
    if (block->size < settings_.max_split_size || block->stream != stream) {
      break;
    }
    if (block->range == nullptr && !block->is_split()) {
      ++it;  // stays valid: the block after it, or the end
      released += block->size;
      release_segment(block);
    }
  }
  return released >= wanted;
}

void CachingAllocator::release_cached() {
  // The allocator waits for all streams first, so blocks that a stream still used are free as well.
  for (const int64_t id : std::exchange(pending_, {})) {
    completed_.insert(id);
    complete_free(held(id));
  }
  for (Pool* const pool : {&blocks_.large, &blocks_.small}) {
    std::vector<Block*> expandable;
    for (auto it = pool->free.begin(); it != pool->free.end();) {
      Block* const block = *it++;
      if (block->range != nullptr) {
        expandable.push_back(block);
      } else if (!block->is_split()) {
        release_segment(block);
      }
    }
    for (Block* const block : expandable) {
      unmap(block);
    }
  }
}

void CachingAllocator::release_segment(Block* block) {
  blocks_.remove_free(block);
  stats_.reserved -= block->size;
  --stats_.segments;
  ++stats_.device_frees;
  blocks_.delete_segment(block);
}

// Unmaps the pages that lie wholly inside a free block.
void CachingAllocator::unmap(Block* block) {
  if (const int64_t bytes = blocks_.unmap(block); bytes > 0) {
    stats_.reserved -= bytes;
    ++stats_.device_frees;
  }
}

}  // namespace torchprof
