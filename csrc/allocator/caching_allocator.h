// A simulation of PyTorch's CUDA caching allocator, without a GPU: which blocks it allocates, reserves from the device, caches and
// releases for a sequence of allocations and frees. Pure: depends on neither PyTorch nor Python.
//
//   segment, 20 MiB of the device        allocate(2 MiB)                 free the 3 MiB: it merges with free neighbors
//   ┌───────┬─────────────────────┐      ┌───────┬─────┬─────────────┐   ┌───────┬─────┬─────────────┐
//   │ 3 MiB │ 17 MiB, free        │  ──► │ 3 MiB │ 2   │ 15, free    │   │ free  │ 2   │ 15, free    │
//   └───────┴─────────────────────┘      └───────┴─────┴─────────────┘   └───────┴─────┴─────────────┘
//
// There is a pool of blocks of up to 1 MiB and one of larger blocks, and each stream has its own blocks in both. An expandable segment
// is a range of addresses as large as the device, whose pages are mapped when they are needed.
//
// Not simulated: the device itself (the addresses that cudaMalloc returns, how it rounds sizes up, memory of other processes), private
// pools of CUDA graphs, and when another stream is done with a block, which the caller says.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "allocator/blocks.h"

namespace torchprof {

// As in PYTORCH_ALLOC_CONF, in bytes.
struct AllocatorSettings {
  int64_t large_segment_size = int64_t{20} << 20;
  int64_t max_split_size = std::numeric_limits<int64_t>::max();
  int64_t max_non_split_rounding = int64_t{20} << 20;
  std::array<int64_t, 16> roundup_power2_divisions{};  // for sizes from 1 MiB, 2 MiB, 4 MiB, ...; 0: multiples of 512
  double garbage_collection_threshold = 0;             // 0: never
  double per_process_memory_fraction = 1;              // 1: no limit but the device
  bool expandable_segments = false;
};

struct AllocatorStats {
  int64_t allocated = 0;  // bytes of allocated blocks
  int64_t allocated_peak = 0;
  int64_t reserved = 0;  // bytes of the device that segments have
  int64_t reserved_peak = 0;
  int64_t requested = 0;       // bytes of allocated blocks without rounding
  int64_t active_blocks = 0;   // allocated, or freed while another stream still uses them
  int64_t segments = 0;        // from cudaMalloc; expandable ones are not counted
  int64_t inactive_split = 0;  // bytes of free blocks of segments in use; expandable segments are not counted
  int64_t inactive_split_blocks = 0;
  int64_t device_allocs = 0;  // calls of cudaMalloc, or mappings
  int64_t device_frees = 0;
  int64_t retries = 0;  // how often all cached segments were released to make room
};

class CachingAllocator {
 public:
  // capacity: bytes of the device; 0: unlimited.
  CachingAllocator(const AllocatorSettings& settings, int64_t capacity);
  CachingAllocator(const CachingAllocator&) = delete;
  CachingAllocator& operator=(const CachingAllocator&) = delete;

  // Returns the address; 0 if there is no room even after all cached segments were released. Throws std::invalid_argument if `id` is
  // allocated already.
  int64_t allocate(int64_t id, int64_t bytes, int64_t stream);
  // Both throw std::invalid_argument if `id` is not allocated.
  void free(int64_t id);
  void request_free(int64_t id);
  void empty_cache();
  // Releases the segment, or the whole pages, of the free block around an address. False if there is none.
  bool release_at(int64_t address);
  // Maps the page at an address, as an allocation does that then finds no room for its other pages. False if no hole of an expandable
  // segment begins there.
  bool map_at(int64_t address);
  void place_next_segment(int64_t address) { blocks_.place_next_segment(address); }

  // Starts from a state that is not empty. Throws std::invalid_argument if rows overlap or leave gaps.
  void restore(const std::vector<BlockRow>& rows);
  std::vector<BlockRow> blocks() const { return blocks_.rows(); }
  AllocatorStats stats() const {
    AllocatorStats stats = stats_;
    stats.inactive_split = blocks_.inactive_split().bytes;
    stats.inactive_split_blocks = blocks_.inactive_split().blocks;
    return stats;
  }

 private:
  using Block = AllocatorBlocks::Block;
  using Key = AllocatorBlocks::Key;
  using Pool = AllocatorBlocks::Pool;

  int64_t round(int64_t bytes) const;
  int64_t segment_size(int64_t size) const;
  bool splits(const Block& block, int64_t size) const;

  Block* find_free(Pool& pool, int64_t size, int64_t stream);
  Block* allocate_on_device(Pool& pool, int64_t size, int64_t stream);
  void assign(Block* block, int64_t id, int64_t bytes, int64_t size);
  void complete_free(Block* block);

  Block* grow_expandable(Pool& pool, int64_t size, int64_t stream);
  Block* find_address_space(Pool& pool, int64_t size, int64_t stream);
  bool map(Block* block, int64_t size);
  void unmap(Block* block);

  void collect_garbage();
  bool release_oversize(Pool& pool, int64_t size, int64_t stream);
  void release_cached();
  void release_segment(Block* block);
  void reserve(int64_t bytes);

  Block* held(int64_t id) const;
  int64_t page_size(bool small) const;
  int64_t address_space(int64_t page) const;
  void restore_segment(const BlockRow* rows, size_t count, int64_t next_segment);

  const AllocatorSettings settings_;
  const int64_t capacity_;
  const int64_t limit_;  // 0: none
  const bool collects_garbage_;
  AllocatorStats stats_;  // without inactive_split and inactive_split_blocks
  AllocatorBlocks blocks_;
  std::unordered_map<int64_t, Block*> held_;
  std::vector<int64_t> pending_;
  std::unordered_set<int64_t> completed_;  // pending blocks that release_cached() freed before their free() came
};

}  // namespace torchprof
