#include "allocator/caching_allocator.h"

#include <algorithm>
#include <bit>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>

namespace torchprof {
namespace {

constexpr int64_t kMiB = int64_t{1} << 20;
constexpr int64_t kMinBlock = 512;
constexpr int64_t kMaxSmall = kMiB;             // the small pool has blocks up to this size
constexpr int64_t kSmallSegment = 2 * kMiB;     // in segments of this size
constexpr int64_t kMinOwnSegment = 10 * kMiB;   // blocks from this size on have a segment of their own size,
constexpr int64_t kSegmentRounding = 2 * kMiB;  // rounded up to this; smaller ones share one of large_segment_size

// 1200 with 4 divisions: between 1024 and 2048 there are 1024, 1280, 1536 and 1792, so 1280.
int64_t round_to_division(int64_t size, int64_t divisions) {
  const auto floor = static_cast<int64_t>(std::bit_floor(static_cast<uint64_t>(size)));
  const int64_t step = floor / divisions;
  return step == 0 ? (floor == size ? size : 2 * floor) : round_up(size, step);
}

}  // namespace

CachingAllocator::CachingAllocator(const AllocatorSettings& settings, int64_t capacity)
    : settings_(settings),
      capacity_(capacity),
      limit_(capacity > 0 && settings.per_process_memory_fraction < 1
                 ? static_cast<int64_t>(settings.per_process_memory_fraction * static_cast<double>(capacity))
                 : 0),
      collects_garbage_(limit_ > 0 && settings.garbage_collection_threshold > 0) {
  if (capacity > kMostBytes || settings.large_segment_size > kMostBytes || settings.max_non_split_rounding > kMostBytes) {
    throw std::invalid_argument("the capacity and the sizes of the settings are at most " + std::to_string(kMostBytes) +
                                " bytes");
  }
  held_.reserve(1024);
}

int64_t CachingAllocator::allocate(int64_t id, int64_t bytes, int64_t stream) {
  if (bytes <= 0 || bytes > kMostBytes) {
    throw std::invalid_argument("cannot allocate " + std::to_string(bytes) + " bytes");
  }
  if (id < 0 || held_.contains(id)) {
    throw std::invalid_argument("id " + std::to_string(id) + (id < 0 ? " is negative" : " is allocated already"));
  }
  const int64_t size = round(bytes);
  Pool& pool = size <= kMaxSmall ? blocks_.small : blocks_.large;
  // As in PyTorch, free blocks are searched once: blocks that become free when memory is released below are not used.
  Block* block = blocks_.next_segment_is_placed() ? nullptr : find_free(pool, size, stream);
  if (block == nullptr) {
    if (collects_garbage_) {
      collect_garbage();
    }
    block = allocate_on_device(pool, size, stream);
  }
  if (block == nullptr && release_oversize(pool, size, stream)) {
    block = allocate_on_device(pool, size, stream);
  }
  if (block == nullptr) {
    release_cached();
    ++stats_.retries;
    block = allocate_on_device(pool, size, stream);
  }
  blocks_.place_next_segment(0);
  if (block == nullptr) {
    return 0;
  }
  assign(block, id, bytes, size);
  return block->address;
}

void CachingAllocator::free(int64_t id) {
  if (!completed_.empty() && completed_.erase(id) != 0) {
    return;
  }
  Block* const block = held(id);
  if (block->pending) {
    std::erase(pending_, id);
  } else {
    stats_.allocated -= block->size;
  }
  complete_free(block);
}

void CachingAllocator::request_free(int64_t id) {
  Block* const block = held(id);
  if (!block->pending) {
    block->pending = true;
    pending_.push_back(id);
    stats_.allocated -= block->size;
  }
}

int64_t CachingAllocator::round(int64_t bytes) const {
  if (bytes < kMinBlock) {
    return kMinBlock;
  }
  // Intervals are counted from 1 MiB. Smaller sizes belong to the first, larger ones to the last.
  const int interval = std::bit_width(static_cast<uint64_t>(bytes)) - std::bit_width(static_cast<uint64_t>(kMiB));
  const int64_t divisions = settings_.roundup_power2_divisions[static_cast<size_t>(std::clamp(interval, 0, 15))];
  return divisions > 1 && bytes > kMinBlock * divisions ? round_to_division(bytes, divisions) : round_up(bytes, kMinBlock);
}

int64_t CachingAllocator::segment_size(int64_t size) const {
  if (size <= kMaxSmall) {
    return kSmallSegment;
  }
  return size < kMinOwnSegment ? settings_.large_segment_size : round_up(size, kSegmentRounding);
}

bool CachingAllocator::splits(const Block& block, int64_t size) const {
  const int64_t remaining = block.size - size;
  if (block.pool->small || settings_.expandable_segments) {
    return remaining >= kMinBlock;
  }
  return size < settings_.max_split_size && remaining > kMaxSmall;
}

CachingAllocator::Block* CachingAllocator::find_free(Pool& pool, int64_t size, int64_t stream) {
  if (collects_garbage_) {
    ++pool.searches;
  }
  const auto end = pool.free.end();
  const auto usable = [&](auto it) { return it != end && (*it)->stream == stream; };
  auto found = pool.free.lower_bound(Key{stream, size, 0});
  if (!usable(found)) {
    return nullptr;
  }
  if ((*found)->range != nullptr) {
    if (settings_.expandable_segments) {
      // A block that can grow counts with the size that it can grow to, so that a block which cannot grow is preferred.
      const auto grown = [](const Block* block) {
        return block->size + (block->next != nullptr && !block->next->mapped ? block->next->size : 0);
      };
      auto next = std::next(found);
      while ((*found)->range != nullptr && usable(next) && grown(*next) < grown(*found)) {
        found = next++;
      }
    } else {
      while (usable(found) && (*found)->range != nullptr) {
        ++found;
      }
      if (!usable(found)) {
        return nullptr;
      }
    }
  }
  Block* const block = *found;
  const bool oversize = size >= settings_.max_split_size;
  if (oversize ? block->size >= size + settings_.max_non_split_rounding : block->size >= settings_.max_split_size) {
    return nullptr;
  }
  blocks_.remove_free(block);
  return block;
}

CachingAllocator::Block* CachingAllocator::allocate_on_device(Pool& pool, int64_t size, int64_t stream) {
  const int64_t bytes = segment_size(size);
  if (limit_ > 0 && stats_.reserved + bytes > limit_) {
    return nullptr;
  }
  if (settings_.expandable_segments) {
    return grow_expandable(pool, size, stream);
  }
  if (capacity_ > 0 && stats_.reserved + bytes > capacity_) {
    return nullptr;
  }
  reserve(bytes);
  ++stats_.segments;
  return blocks_.new_segment(pool, bytes, stream);
}

void CachingAllocator::assign(Block* block, int64_t id, int64_t bytes, int64_t size) {
  if (splits(*block, size)) {
    blocks_.trim(block, size);
  }
  block->id = id;
  block->requested = bytes;
  block->active = true;
  held_.emplace(id, block);
  ++stats_.active_blocks;
  stats_.requested += bytes;
  stats_.allocated += block->size;
  stats_.allocated_peak = std::max(stats_.allocated_peak, stats_.allocated);
}

void CachingAllocator::complete_free(Block* block) {
  held_.erase(block->id);
  --stats_.active_blocks;
  stats_.requested -= block->requested;
  block->id = -1;
  block->active = block->pending = false;
  blocks_.insert_merged(block);
}

CachingAllocator::Block* CachingAllocator::grow_expandable(Pool& pool, int64_t size, int64_t stream) {
  Block* block = find_address_space(pool, size, stream);
  if (!block->mapped && !map(block, std::min(block->size, size))) {
    return nullptr;
  }
  while (block->size < size) {
    Block* const next = block->next;  // mapping it merges it with what is before it
    if (!map(next, std::min(size - block->size, next->size))) {
      return nullptr;
    }
    block = next;
  }
  blocks_.remove_free(block);
  return block;
}

// If no range of addresses has room, it is a new one.
CachingAllocator::Block* CachingAllocator::find_address_space(Pool& pool, int64_t size, int64_t stream) {
  if (Block* const found = blocks_.find_mappable(pool, size, stream)) {
    return found;
  }
  const int64_t page = page_size(pool.small);
  return blocks_.new_range(pool, std::max(address_space(page), round_up(size, page)), page, stream);
}

// Maps the pages of an unmapped block that its first `size` bytes need, all of them or none.
bool CachingAllocator::map(Block* block, int64_t size) {
  const int64_t bytes = round_up(size, block->range->page);
  if (capacity_ > 0 && stats_.reserved + bytes > capacity_) {
    return false;
  }
  blocks_.map(block, bytes);
  reserve(bytes);
  return true;
}

bool CachingAllocator::map_at(int64_t address) {
  for (Pool* const pool : {&blocks_.small, &blocks_.large}) {
    const auto found = std::find_if(pool->unmapped.begin(), pool->unmapped.end(),
                                    [&](const Block* block) { return block->address == address; });
    if (found != pool->unmapped.end()) {
      return map(*found, (*found)->range->page);
    }
  }
  return false;
}

void CachingAllocator::reserve(int64_t bytes) {
  stats_.reserved += bytes;
  stats_.reserved_peak = std::max(stats_.reserved_peak, stats_.reserved);
  ++stats_.device_allocs;
}

CachingAllocator::Block* CachingAllocator::held(int64_t id) const {
  const auto found = held_.find(id);
  if (found == held_.end()) {
    throw std::invalid_argument("id " + std::to_string(id) + " is not allocated");
  }
  return found->second;
}

int64_t CachingAllocator::page_size(bool small) const { return small ? kSmallSegment : settings_.large_segment_size; }

// An expandable segment has room for all of the device and an eighth more.
int64_t CachingAllocator::address_space(int64_t page) const {
  return round_up(capacity_ > 0 ? capacity_ + capacity_ / 8 : int64_t{1} << 40, page);
}

void CachingAllocator::restore(const std::vector<BlockRow>& rows) {
  for (size_t begin = 0, end = 0; begin < rows.size(); begin = end) {
    while (end < rows.size() && rows[end].segment == rows[begin].segment) {
      ++end;
    }
    const int64_t next = end < rows.size() ? rows[end].segment : std::numeric_limits<int64_t>::max();
    restore_segment(rows.data() + begin, end - begin, next);
  }
  stats_.allocated_peak = stats_.allocated;
  stats_.reserved_peak = stats_.reserved;
}

void CachingAllocator::restore_segment(const BlockRow* rows, size_t count, int64_t next_segment) {
  const int64_t page = page_size((rows->kind & kSmallPool) != 0);
  const auto is_possible = [](const BlockRow& row) {
    return row.segment > 0 && row.segment <= row.address && row.address <= kLastAddress && row.bytes > 0 &&
           row.bytes <= kMostBytes;
  };
  std::optional<std::vector<Block*>> in_use;
  if (std::all_of(rows, rows + count, is_possible)) {
    in_use = blocks_.restore_segment(rows, count, next_segment, page, address_space(page));
  }
  bool sound = in_use.has_value();
  for (size_t i = 0; sound && i < in_use->size(); ++i) {
    Block* const block = (*in_use)[i];
    sound = held_.emplace(block->id, block).second;
    block->active = true;
    block->requested = block->size;
    ++stats_.active_blocks;
    stats_.requested += block->size;
    stats_.allocated += block->size;
  }
  if (!sound) {
    throw std::invalid_argument("the blocks of the segment at " + std::to_string(rows->segment) +
                                " leave gaps, overlap or share an id");
  }
  for (size_t i = 0; i < count; ++i) {
    stats_.reserved += rows[i].bytes;
  }
  stats_.segments += (rows->kind & kExpandable) != 0 ? 0 : 1;
}

}  // namespace torchprof
