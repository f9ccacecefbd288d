#include "allocator/blocks.h"

#include <algorithm>
#include <stdexcept>
#include <utility>

namespace torchprof {
namespace {

constexpr int64_t kAddressRounding = int64_t{2} << 20;  // of addresses that no caller placed

}  // namespace

AllocatorBlocks::Block* AllocatorBlocks::new_segment(Pool& pool, int64_t size, int64_t stream) {
  return new_block(pool, new_address(size, size), size, stream, nullptr);
}

AllocatorBlocks::Block* AllocatorBlocks::new_range(Pool& pool, int64_t size, int64_t page, int64_t stream) {
  Block* const block = new_block(pool, new_address(size, page), size, stream, nullptr);
  block->range = add_range(block->address, size, page);
  block->mapped = false;
  pool.unmapped.insert(block);
  return block;
}

void AllocatorBlocks::delete_segment(Block* block) {
  segments_.erase(block->address);
  if (block->range != nullptr) {
    ranges_.erase(block->address);
  }
  delete_block(block);
}

void AllocatorBlocks::trim(Block* block, int64_t size) { insert_free(split_off(block, size)); }

void AllocatorBlocks::insert_merged(Block* block) {
  merge(block, block->previous);
  merge(block, block->next);
  insert_free(block);
}

AllocatorBlocks::Block* AllocatorBlocks::find_mappable(const Pool& pool, int64_t size, int64_t stream) const {
  Block* lowest = nullptr;
  auto it = pool.unmapped.lower_bound(Key{stream, 0, 0});
  for (; it != pool.unmapped.end() && (*it)->stream == stream; ++it) {
    Block* const first = (*it)->previous != nullptr && !(*it)->previous->active ? (*it)->previous : *it;
    int64_t room = 0;
    for (const Block* block = first; room < size && block != nullptr && !block->active; block = block->next) {
      room += block->size;
    }
    if (room >= size) {
      if (next_segment_ == 0 || next_segment_ == first->address || next_segment_ == (*it)->address) {
        return first;
      }
      lowest = lowest == nullptr ? first : lowest;
    }
  }
  if (next_segment_ == 0) {
    return nullptr;
  }
  const auto mapped = std::find_if(pool.free.begin(), pool.free.end(), [&](const Block* block) {
    return block->address == next_segment_ && block->stream == stream && block->size >= size && block->range != nullptr;
  });
  if (mapped != pool.free.end()) {
    return *mapped;
  }
  return in_range(next_segment_) ? lowest : nullptr;
}

bool AllocatorBlocks::in_range(int64_t address) const {
  const auto after = ranges_.upper_bound(address);
  return after != ranges_.begin() && address < std::prev(after)->second.begin + std::prev(after)->second.size;
}

void AllocatorBlocks::map(Block* block, int64_t bytes) {
  Pool& pool = *block->pool;
  pool.unmapped.erase(block);
  if (bytes < block->size) {
    pool.unmapped.insert(split_off(block, bytes));
  }
  block->mapped = true;
  insert_merged(block);
}

int64_t AllocatorBlocks::unmap(Block* block) {
  const Range& range = *block->range;
  const int64_t begin = range.begin + round_up(block->address - range.begin, range.page);
  const int64_t end = range.begin + round_down(block->address + block->size - range.begin, range.page);
  if (begin >= end) {
    return 0;
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
  if (pages->is_split()) {
    pages->pool->unmapped.insert(pages);
  } else {  // no page of the segment is mapped
    delete_segment(pages);
  }
  return end - begin;
}

// The neighbors of a free block are active or unmapped, so is_split() does not change while it is free.
void AllocatorBlocks::insert_free(Block* block) {
  block->age_base = block->pool->searches;
  block->pool->free.insert(block);
  if (block->range == nullptr && block->is_split()) {
    inactive_split_.bytes += block->size;
    ++inactive_split_.blocks;
  }
}

void AllocatorBlocks::remove_free(Block* block) {
  block->pool->free.erase(block);
  if (block->range == nullptr && block->is_split()) {
    inactive_split_.bytes -= block->size;
    --inactive_split_.blocks;
  }
}

// Merges a block that is in no set with a neighbor, if that is not active and both are mapped, or both are not.
void AllocatorBlocks::merge(Block* block, Block* neighbor) {
  if (neighbor == nullptr || neighbor->active || neighbor->mapped != block->mapped) {
    return;
  }
  if (neighbor->mapped) {
    remove_free(neighbor);
  } else {
    neighbor->pool->unmapped.erase(neighbor);
  }
  if (neighbor == block->previous) {
    block->address = neighbor->address;
    block->previous = neighbor->previous;
    if (block->previous != nullptr) {
      block->previous->next = block;
    }
  } else {
    block->next = neighbor->next;
    if (block->next != nullptr) {
      block->next->previous = block;
    }
  }
  block->size += neighbor->size;
  delete_block(neighbor);
}

// Splits a block that is in no set after `size` bytes, and returns the rest, which is in no set either.
AllocatorBlocks::Block* AllocatorBlocks::split_off(Block* block, int64_t size) {
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

AllocatorBlocks::Block* AllocatorBlocks::new_block(Pool& pool, int64_t address, int64_t size, int64_t stream, Range* range) {
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

void AllocatorBlocks::delete_block(Block* block) {
  block->alive = false;
  unused_.push_back(block);
}

AllocatorBlocks::Range* AllocatorBlocks::add_range(int64_t address, int64_t size, int64_t page) {
  return &ranges_.insert_or_assign(address, Range{address, size, page}).first->second;
}

// The address that place_next_segment() set, unless a segment is there. Otherwise above all such addresses so far, so that of several
// equal blocks the oldest is used first.
int64_t AllocatorBlocks::new_address(int64_t size, int64_t used) {
  int64_t address = std::exchange(next_segment_, 0);
  address = std::min(address, kLastAddress + 1);
  const auto after = segments_.lower_bound(address);
  const bool overlaps = (after != segments_.end() && after->first < address + used) ||
                        (after != segments_.begin() && std::prev(after)->second > address);
  if (address <= 0 || address > kLastAddress || overlaps) {
    address = free_address(next_address_, size);
    if (address > kLastAddress) {
      throw std::invalid_argument("all segments together have more addresses than there are");
    }
    next_address_ = address + round_up(size, kAddressRounding);
  }
  segments_.emplace(address, address + used);
  return address;
}

// A restored state may have segments at these addresses.
int64_t AllocatorBlocks::free_address(int64_t from, int64_t size) const {
  auto next = segments_.upper_bound(from);
  if (next != segments_.begin() && std::prev(next)->second > from) {
    from = round_up(std::prev(next)->second, kAddressRounding);
  }
  for (; next != segments_.end() && next->first < from + size; ++next) {
    from = round_up(next->second, kAddressRounding);
  }
  return from;
}

std::optional<std::vector<AllocatorBlocks::Block*>> AllocatorBlocks::restore_segment(const BlockRow* rows, size_t count,
                                                                                     int64_t next_segment, int64_t page,
                                                                                     int64_t room) {
  Pool& pool = (rows->kind & kSmallPool) != 0 ? small : large;
  const bool expandable = (rows->kind & kExpandable) != 0;
  const int64_t begin = rows->segment;
  const int64_t mapped_end = rows[count - 1].address + rows[count - 1].bytes;
  Range* range = nullptr;
  int64_t end = mapped_end;
  if (expandable) {
    room = std::min(room, round_down(next_segment - begin, page));
    end = begin + std::max(room, round_up(mapped_end - begin, page));
    range = add_range(begin, end - begin, page);
  }
  if (begin <= 0 || mapped_end <= begin || end > next_segment || !segments_.emplace(begin, mapped_end).second) {
    return std::nullopt;
  }
  std::vector<Block*> blocks;
  const auto appended_to = [&] { return blocks.empty() ? begin : blocks.back()->address + blocks.back()->size; };
  const auto append = [&](int64_t to, bool mapped) {
    const int64_t from = appended_to();
    if (to <= from) {
      return false;
    }
    Block* const block = new_block(pool, from, to - from, rows->stream, range);
    block->mapped = mapped;
    if (!blocks.empty()) {
      block->previous = blocks.back();
      blocks.back()->next = block;
    }
    blocks.push_back(block);
    return true;
  };
  for (size_t i = 0; i < count; ++i) {
    if (rows[i].address != appended_to() && (!expandable || !append(rows[i].address, false))) {
      return std::nullopt;
    }
    if (!append(rows[i].address + rows[i].bytes, true)) {
      return std::nullopt;
    }
    blocks.back()->id = rows[i].id;
  }
  if (end > mapped_end) {
    append(end, false);
  }
  std::vector<Block*> with_id;
  for (Block* const block : blocks) {
    if (!block->mapped) {
      pool.unmapped.insert(block);
    } else if (block->id < 0) {
      insert_free(block);
    } else {
      with_id.push_back(block);
    }
  }
  return with_id;
}

std::vector<BlockRow> AllocatorBlocks::rows() const {
  std::vector<BlockRow> found;
  for (const Block& first : blocks_) {
    if (!first.alive || first.previous != nullptr) {
      continue;
    }
    const int64_t kind = (first.pool->small ? kSmallPool : 0) | (first.range != nullptr ? kExpandable : 0);
    for (const Block* block = &first; block != nullptr; block = block->next) {
      if (block->mapped) {
        found.push_back({first.address, block->address, block->size, block->id, block->stream, kind});
      }
    }
  }
  std::sort(found.begin(), found.end(), [](const BlockRow& a, const BlockRow& b) {
    return a.segment != b.segment ? a.segment < b.segment : a.address < b.address;
  });
  return found;
}

}  // namespace torchprof
