// PyTorch's CUDA caching allocator without a GPU: what it would hand out, reserve from the device, keep and give back for a
// sequence of allocations and frees. Pure: knows neither PyTorch nor Python.
//
//   segment, 20 MiB of the device        allocate(2 MiB)                 free the 3 MiB: it merges with free neighbours
//   ┌───────┬─────────────────────┐      ┌───────┬─────┬─────────────┐   ┌───────┬─────┬─────────────┐
//   │ 3 MiB │ 17 MiB, free        │  ──► │ 3 MiB │ 2   │ 15, free    │   │ free  │ 2   │ 15, free    │
//   └───────┴─────────────────────┘      └───────┴─────┴─────────────┘   └───────┴─────┴─────────────┘
//
// Blocks of up to 1 MiB and larger ones come from two pools, and each stream has its own blocks in them. With expandable
// segments, a segment is a range of addresses as large as the device, of which pages are mapped as they are needed.
//
// Not simulated: what the device itself does (the addresses cudaMalloc returns, memory that it rounds up or that others
// take), private pools of CUDA graphs, and when another stream is done with a block: the caller says so.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <limits>
#include <map>
#include <set>
#include <unordered_map>
#include <unordered_set>
#include <vector>

namespace torchprof {

// As in PYTORCH_ALLOC_CONF, in bytes.
struct AllocatorSettings {
  int64_t large_segment_size = int64_t{20} << 20;
  int64_t max_split_size = std::numeric_limits<int64_t>::max();
  int64_t max_non_split_rounding = int64_t{20} << 20;
  std::array<int64_t, 16> roundup_power2_divisions{};  // of sizes from 1 MiB, 2 MiB, 4 MiB, ...; 0: multiples of 512
  double garbage_collection_threshold = 0;             // 0: never
  double per_process_memory_fraction = 1;              // 1: no limit but the device
  bool expandable_segments = false;
};

struct AllocatorStats {
  int64_t allocated = 0;       // bytes of blocks handed out
  int64_t allocated_peak = 0;
  int64_t reserved = 0;        // bytes taken from the device
  int64_t reserved_peak = 0;
  int64_t requested = 0;       // bytes that were asked for, of blocks handed out: without rounding
  int64_t active_blocks = 0;   // handed out, or waiting for another stream
  int64_t segments = 0;        // of cudaMalloc; expandable ones are not counted
  int64_t inactive_split = 0;  // bytes of free blocks whose segment is in use; expandable segments are not counted
  int64_t inactive_split_blocks = 0;
  int64_t device_allocs = 0;  // calls of cudaMalloc, or mappings
  int64_t device_frees = 0;
  int64_t retries = 0;  // times that all cached segments were given back to make room
};

// BlockRow::kind
inline constexpr int64_t kSmallPool = 1;
inline constexpr int64_t kExpandable = 2;

// One block of a state that is read or restored. Rows are in order of address, those of a segment one after the other; what
// is missing between two rows of an expandable segment is not mapped.
struct BlockRow {
  int64_t segment;  // its address
  int64_t address;
  int64_t bytes;
  int64_t id;  // -1: free
  int64_t stream;
  int64_t kind;
};

// bytes > 0: `id` is allocated on `stream`. Otherwise it is freed, or, with a negative stream, something else happens.
struct AllocatorEvent {
  int64_t id;
  int64_t bytes;
  int64_t stream;
};
inline constexpr int64_t kFreeRequested = -1;   // `id` is freed but another stream still uses it, until its free follows
inline constexpr int64_t kEmptyCache = -2;      // torch.cuda.empty_cache()
inline constexpr int64_t kReleaseAt = -3;       // the free block around the address `id` goes back to the device
inline constexpr int64_t kNextSegmentAt = -4;   // if the next allocation takes a segment, it begins at the address `id`

class CachingAllocator {
 public:
  // capacity: bytes of the device; 0: no end to it.
  CachingAllocator(const AllocatorSettings& settings, int64_t capacity);
  CachingAllocator(const CachingAllocator&) = delete;
  CachingAllocator& operator=(const CachingAllocator&) = delete;

  // The address; 0 when there is no room even after all that is cached was given back. Throws std::invalid_argument where
  // `id` is held already.
  int64_t allocate(int64_t id, int64_t bytes, int64_t stream);
  // Throw std::invalid_argument where `id` is not held.
  void free(int64_t id);
  void request_free(int64_t id);
  void empty_cache();
  // Gives back the segment, or the whole pages, of the free block around an address; false where there is none.
  bool release_at(int64_t address);
  void place_next_segment(int64_t address) { next_segment_ = address; }

  // Begins from a state that is not empty. Throws std::invalid_argument where rows overlap or leave gaps.
  void restore(const std::vector<BlockRow>& rows);
  std::vector<BlockRow> blocks() const;
  const AllocatorStats& stats() const { return stats_; }

 private:
  struct Pool;

  struct Range {  // of addresses, of an expandable segment
    int64_t begin;
    int64_t size;
    int64_t page;
  };

  struct Block {
    int64_t address = 0;
    int64_t size = 0;
    int64_t stream = 0;
    int64_t id = -1;
    int64_t requested = 0;
    int64_t age_base = 0;  // Pool::searches when it became free
    Pool* pool = nullptr;
    Range* range = nullptr;
    Block* previous = nullptr;
    Block* next = nullptr;
    bool active = false;   // handed out, or waiting for another stream
    bool pending = false;  // the latter
    bool mapped = true;
    bool alive = false;

    bool is_split() const { return previous != nullptr || next != nullptr; }
  };

  struct Key {
    int64_t stream;
    int64_t size;
    int64_t address;
  };
  struct BySize {  // best fit: the smallest that is large enough, of these the lowest
    using is_transparent = void;
    static Key key(const Block* block) { return {block->stream, block->size, block->address}; }
    static const Key& key(const Key& key) { return key; }
    template <typename A, typename B>
    bool operator()(const A& a, const B& b) const {
      const Key& x = key(a);
      const Key& y = key(b);
      return x.stream != y.stream ? x.stream < y.stream : x.size != y.size ? x.size < y.size : x.address < y.address;
    }
  };
  struct ByAddress {
    using is_transparent = void;
    template <typename A, typename B>
    bool operator()(const A& a, const B& b) const {
      const Key& x = BySize::key(a);
      const Key& y = BySize::key(b);
      return x.stream != y.stream ? x.stream < y.stream : x.address < y.address;
    }
  };

  struct Pool {
    bool small;
    std::set<Block*, BySize> free;
    std::set<Block*, ByAddress> unmapped;
    int64_t searches = 0;
  };

  int64_t round(int64_t bytes) const;
  int64_t segment_size(int64_t size) const;
  bool splits(const Block& block, int64_t size) const;

  Block* find_free(Pool& pool, int64_t size, int64_t stream);
  Block* take_from_device(Pool& pool, int64_t size, int64_t stream);
  void hand_out(Block* block, int64_t id, int64_t bytes, int64_t size);
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

  void insert_free(Block* block);
  void remove_free(Block* block);
  void merge(Block* block, Block* neighbour);
  Block* split_off(Block* block, int64_t size);
  Block* new_block(Pool& pool, int64_t address, int64_t size, int64_t stream, Range* range);
  void delete_block(Block* block);
  Block* held(int64_t id) const;
  Range* new_range(int64_t address, int64_t size, int64_t page);
  int64_t new_address(int64_t size, int64_t used);
  int64_t page_size(const Pool& pool) const;
  int64_t address_space(int64_t page) const;
  void restore_segment(const BlockRow* rows, size_t count, int64_t next_segment);

  const AllocatorSettings settings_;
  const int64_t capacity_;
  const int64_t limit_;  // 0: none
  const bool collects_garbage_;
  AllocatorStats stats_;
  Pool small_{true, {}, {}};
  Pool large_{false, {}, {}};
  std::deque<Block> blocks_;
  std::vector<Block*> unused_;
  std::map<int64_t, Range> ranges_;
  std::map<int64_t, int64_t> segments_;  // address to end, of all; of expandable ones the end of the first page
  std::unordered_map<int64_t, Block*> held_;
  std::vector<int64_t> pending_;
  std::unordered_set<int64_t> completed_;  // freed before their free was seen
  int64_t next_address_ = int64_t{1} << 32;
  int64_t next_segment_ = 0;
};

// After each event.
struct AllocatorTimeline {
  std::vector<int64_t> allocated;
  std::vector<int64_t> reserved;
  std::vector<int64_t> addresses;  // of what was allocated; 0 for other events
};

// Lets events happen until one does not fit. Returns its row, or -1. Exceptions name the row.
int64_t replay(CachingAllocator& allocator, const AllocatorEvent* events, size_t count, AllocatorTimeline* timeline);

}  // namespace torchprof
