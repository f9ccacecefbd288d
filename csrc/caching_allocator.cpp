#include "caching_allocator.h"

#include <algorithm>
#include <bit>
#include <stdexcept>
#include <string>
#include <utility>

namespace torchprof {
namespace {

constexpr int64_t kMiB = int64_t{1} << 20;
constexpr int64_t kMinBlock = 512;
constexpr int64_t kMaxSmall = kMiB;            // the small pool serves blocks up to this size
constexpr int64_t kSmallSegment = 2 * kMiB;    // and takes segments of this one
constexpr int64_t kMinOwnSegment = 10 * kMiB;  // blocks from this size on have a segment of their own size,
constexpr int64_t kSegmentRounding = 2 * kMiB;  // rounded up to this; smaller ones share one of large_segment_size
constexpr int64_t kMostBytes = int64_t{1} << 50;  // of one allocation: far above any device, far below an overflow

int64_t round_up(int64_t size, int64_t unit) { return (size + unit - 1) / unit * unit; }
int64_t round_down(int64_t size, int64_t unit) { return size / unit * unit; }

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
  Pool& pool = size <= kMaxSmall ? small_ : large_;
  Block* block = find_free(pool, size, stream);
  if (block == nullptr) {
    if (collects_garbage_) {
      collect_garbage();
    }
    block = take_from_device(pool, size, stream);
  }
  if (block == nullptr && release_oversize(pool, size, stream)) {
    block = take_from_device(pool, size, stream);
  }
  if (block == nullptr) {
    release_cached();
    ++stats_.retries;
    block = take_from_device(pool, size, stream);
  }
  next_segment_ = 0;
  if (block == nullptr) {
    return 0;
  }
  hand_out(block, id, bytes, size);
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

void CachingAllocator::empty_cache() { release_cached(); }

bool CachingAllocator::release_at(int64_t address) {
  for (Pool* const pool : {&small_, &large_}) {
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

int64_t CachingAllocator::round(int64_t bytes) const {
  if (bytes < kMinBlock) {
    return kMinBlock;
  }
  // Intervals are counted from 1 MiB; what is smaller belongs to the first, what is larger to the last.
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
      // A block that can grow counts with the size it can grow to, so that one which cannot is preferred.
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
  remove_free(block);
  return block;
}

CachingAllocator::Block* CachingAllocator::take_from_device(Pool& pool, int64_t size, int64_t stream) {
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
  return new_block(pool, new_address(bytes, bytes), bytes, stream, nullptr);
}

void CachingAllocator::hand_out(Block* block, int64_t id, int64_t bytes, int64_t size) {
  if (splits(*block, size)) {
    insert_free(split_off(block, size));
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

// It is nobody's any more: merges with free neighbours and waits to be handed out again.
void CachingAllocator::complete_free(Block* block) {
  held_.erase(block->id);
  --stats_.active_blocks;
  stats_.requested -= block->requested;
  block->id = -1;
  block->active = block->pending = false;
  merge(block, block->previous);
  merge(block, block->next);
  insert_free(block);
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
  remove_free(block);
  return block;
}

// The lowest address from which enough is free or can be mapped; where there is none, a new range of addresses.
CachingAllocator::Block* CachingAllocator::find_address_space(Pool& pool, int64_t size, int64_t stream) {
  auto it = pool.unmapped.lower_bound(Key{stream, 0, 0});
  for (; it != pool.unmapped.end() && (*it)->stream == stream; ++it) {
    Block* const first = (*it)->previous != nullptr && !(*it)->previous->active ? (*it)->previous : *it;
    int64_t room = 0;
    for (const Block* block = first; room < size && block != nullptr && !block->active; block = block->next) {
      room += block->size;
    }
    if (room >= size) {
      return first;
    }
  }
  const int64_t page = page_size(pool);
  const int64_t bytes = std::max(address_space(page), round_up(size, page));
  Block* const block = new_block(pool, new_address(bytes, page), bytes, stream, nullptr);
  block->range = new_range(block->address, bytes, page);
  block->mapped = false;
  pool.unmapped.insert(block);
  return block;
}

// Maps the pages of an unmapped block that its first `size` bytes need, all of them or none.
bool CachingAllocator::map(Block* block, int64_t size) {
  const int64_t bytes = round_up(size, block->range->page);
  if (capacity_ > 0 && stats_.reserved + bytes > capacity_) {
    return false;
  }
  Pool& pool = *block->pool;
  pool.unmapped.erase(block);
  if (bytes < block->size) {
    pool.unmapped.insert(split_off(block, bytes));
  }
  block->mapped = true;
  merge(block, block->previous);
  merge(block, block->next);
  insert_free(block);
  reserve(bytes);
  return true;
}

// Unmaps the pages that lie wholly inside a free block.
void CachingAllocator::unmap(Block* block) {
  const Range& range = *block->range;
  const int64_t begin = range.begin + round_up(block->address - range.begin, range.page);
  const int64_t end = range.begin + round_down(block->address + block->size - range.begin, range.page);
  if (begin >= end) {
    return;
  }
  remove_free(block);
  if (end < block->address + block->size) {
    insert_free(split_off(block, end - block->address));
  }
  Block* pages = block;
  if (begin > block->address) {
    pages = split_off(block, begin - block->address);
    insert_free(block);
  }
  pages->mapped = false;
  merge(pages, pages->previous);
  merge(pages, pages->next);
  pages->pool->unmapped.insert(pages);
  stats_.reserved -= end - begin;
  ++stats_.device_frees;
  if (!pages->is_split()) {  // nothing of the segment is mapped any more
    pages->pool->unmapped.erase(pages);
    segments_.erase(pages->address);
    ranges_.erase(pages->address);
    delete_block(pages);
  }
}

// Gives back whole segments of the large pool that have been free for longest, once more than a share of the limit is taken.
void CachingAllocator::collect_garbage() {
  const auto threshold = static_cast<int64_t>(settings_.garbage_collection_threshold * static_cast<double>(limit_));
  const int64_t wanted = stats_.reserved - threshold;
  const auto age = [&](const Block* block) { return large_.searches - block->age_base; };
  int64_t ages = 0, count = 0, released = 0;
  for (const Block* block : large_.free) {
    if (!block->is_split()) {
      ages += age(block);
      ++count;
    }
  }
  for (bool found = true; released < wanted && found && count > 0;) {
    const double average = static_cast<double>(ages) / static_cast<double>(count);
    found = false;
    for (auto it = large_.free.begin(); it != large_.free.end();) {
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

// With max_split_size: gives back one cached block that is large enough, or the largest ones until they add up. False where
// that was not possible.
bool CachingAllocator::release_oversize(Pool& pool, int64_t size, int64_t stream) {
  if (settings_.max_split_size == std::numeric_limits<int64_t>::max()) {
    return false;
  }
  const int64_t wanted = std::max(size, settings_.max_split_size);
  auto it = pool.free.lower_bound(Key{stream, wanted, 0});
  if (it != pool.free.end() && (*it)->stream == stream && (*it)->range == nullptr) {
    // A block of that size is never split, so it is its whole segment.
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
  // The allocator waits for all streams first, so what was still in use by one comes back as well.
  for (const int64_t id : std::exchange(pending_, {})) {
    completed_.insert(id);
    complete_free(held(id));
  }
  for (Pool* const pool : {&large_, &small_}) {
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
  remove_free(block);
  segments_.erase(block->address);
  stats_.reserved -= block->size;
  --stats_.segments;
  ++stats_.device_frees;
  delete_block(block);
}

void CachingAllocator::reserve(int64_t bytes) {
  stats_.reserved += bytes;
  stats_.reserved_peak = std::max(stats_.reserved_peak, stats_.reserved);
  ++stats_.device_allocs;
}

// Neighbours of a free block are in use or not mapped, so whether it is split does not change while it is free.
void CachingAllocator::insert_free(Block* block) {
  block->age_base = block->pool->searches;
  block->pool->free.insert(block);
  if (block->range == nullptr && block->is_split()) {
    stats_.inactive_split += block->size;
    ++stats_.inactive_split_blocks;
  }
}

void CachingAllocator::remove_free(Block* block) {
  block->pool->free.erase(block);
  if (block->range == nullptr && block->is_split()) {
    stats_.inactive_split -= block->size;
    --stats_.inactive_split_blocks;
  }
}

// Takes a neighbour in, if it is free and of the same kind: mapped or not. `block` itself is in no set.
void CachingAllocator::merge(Block* block, Block* neighbour) {
  if (neighbour == nullptr || neighbour->active || neighbour->mapped != block->mapped) {
    return;
  }
  if (neighbour->mapped) {
    remove_free(neighbour);
  } else {
    neighbour->pool->unmapped.erase(neighbour);
  }
  if (neighbour == block->previous) {
    block->address = neighbour->address;
    block->previous = neighbour->previous;
    if (block->previous != nullptr) {
      block->previous->next = block;
    }
  } else {
    block->next = neighbour->next;
    if (block->next != nullptr) {
      block->next->previous = block;
    }
  }
  block->size += neighbour->size;
  delete_block(neighbour);
}

// Cuts a block that is in no set to `size` bytes and returns the rest, which is in none either.
CachingAllocator::Block* CachingAllocator::split_off(Block* block, int64_t size) {
  Block* const rest = new_block(*block->pool, block->address + size, block->size - size, block->stream, block->range);
  rest->mapped = block->mapped;
  rest->previous = block;
  rest->next = block->next;
  if (rest->next != nullptr) {
    rest->next->previous = rest;
  }
  block->next = rest;
  block->size = size;
  return rest;
}

CachingAllocator::Block* CachingAllocator::new_block(Pool& pool, int64_t address, int64_t size, int64_t stream,
                                                     Range* range) {
  if (unused_.empty()) {
    unused_.push_back(&blocks_.emplace_back());
  }
  Block* const block = unused_.back();
  unused_.pop_back();
  *block = {};
  block->address = address;
  block->size = size;
  block->stream = stream;
  block->pool = &pool;
  block->range = range;
  block->alive = true;
  return block;
}

void CachingAllocator::delete_block(Block* block) {
  block->alive = false;
  unused_.push_back(block);
}

CachingAllocator::Block* CachingAllocator::held(int64_t id) const {
  const auto found = held_.find(id);
  if (found == held_.end()) {
    throw std::invalid_argument("id " + std::to_string(id) + " is not allocated");
  }
  return found->second;
}

CachingAllocator::Range* CachingAllocator::new_range(int64_t address, int64_t size, int64_t page) {
  return &ranges_.insert_or_assign(address, Range{address, size, page}).first->second;
}

// Where the caller said that the next segment is, unless something is there; otherwise above all that was made up before, so
// that the oldest of several equal blocks is taken first.
int64_t CachingAllocator::new_address(int64_t size, int64_t used) {
  int64_t address = std::exchange(next_segment_, 0);
  const auto after = segments_.lower_bound(address);
  const bool overlaps = (after != segments_.end() && after->first < address + used) ||
                        (after != segments_.begin() && std::prev(after)->second > address);
  if (address <= 0 || overlaps) {
    address = next_address_;
    next_address_ += round_up(size, kSegmentRounding);
  }
  segments_.emplace(address, address + used);
  return address;
}

int64_t CachingAllocator::page_size(const Pool& pool) const {
  return pool.small ? kSmallSegment : settings_.large_segment_size;
}

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
  Pool& pool = (rows->kind & kSmallPool) != 0 ? small_ : large_;
  const bool expandable = (rows->kind & kExpandable) != 0;
  const int64_t begin = rows->segment;
  const int64_t mapped_end = rows[count - 1].address + rows[count - 1].bytes;
  const auto fail = [&] {
    throw std::invalid_argument("the blocks of the segment at " + std::to_string(begin) +
                                " leave gaps, overlap or share an id");
  };
  Range* range = nullptr;
  int64_t end = mapped_end;
  if (expandable) {
    const int64_t page = page_size(pool);
    const int64_t room = std::min(address_space(page), round_down(next_segment - begin, page));
    end = begin + std::max(room, round_up(mapped_end - begin, page));
    range = new_range(begin, end - begin, page);
  }
  if (begin <= 0 || mapped_end <= begin || end > next_segment || !segments_.emplace(begin, mapped_end).second) {
    fail();
  }
  Block* last = nullptr;
  const auto append = [&](int64_t to, bool mapped) {
    const int64_t from = last == nullptr ? begin : last->address + last->size;
    if (to <= from) {
      fail();
    }
    Block* const block = new_block(pool, from, to - from, rows->stream, range);
    block->mapped = mapped;
    block->previous = last;
    if (last != nullptr) {
      last->next = block;
    }
    last = block;
    return block;
  };
  std::vector<Block*> blocks;
  for (size_t i = 0; i < count; ++i) {
    const int64_t from = last == nullptr ? begin : last->address + last->size;
    if (rows[i].address != from) {
      if (!expandable) {
        fail();
      }
      blocks.push_back(append(rows[i].address, false));
    }
    blocks.push_back(append(rows[i].address + rows[i].bytes, true));
    blocks.back()->id = rows[i].id;
    stats_.reserved += rows[i].bytes;
  }
  if (end > mapped_end) {
    blocks.push_back(append(end, false));
  }
  stats_.segments += expandable ? 0 : 1;
  for (Block* const block : blocks) {
    if (!block->mapped) {
      pool.unmapped.insert(block);
    } else if (block->id < 0) {
      insert_free(block);
    } else {
      if (!held_.emplace(block->id, block).second) {
        fail();
      }
      block->active = true;
      block->requested = block->size;
      ++stats_.active_blocks;
      stats_.requested += block->size;
      stats_.allocated += block->size;
    }
  }
}

std::vector<BlockRow> CachingAllocator::blocks() const {
  std::vector<BlockRow> rows;
  for (const Block& first : blocks_) {
    if (!first.alive || first.previous != nullptr) {
      continue;
    }
    const int64_t kind = (first.pool->small ? kSmallPool : 0) | (first.range != nullptr ? kExpandable : 0);
    for (const Block* block = &first; block != nullptr; block = block->next) {
      if (block->mapped) {
        rows.push_back({first.address, block->address, block->size, block->id, block->stream, kind});
      }
    }
  }
  std::sort(rows.begin(), rows.end(), [](const BlockRow& a, const BlockRow& b) {
    return a.segment != b.segment ? a.segment < b.segment : a.address < b.address;
  });
  return rows;
}

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
