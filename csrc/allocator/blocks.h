// Segments of a device's memory and the blocks that they are divided into: splits blocks, merges free neighbors, and finds free blocks.
// Which block serves an allocation, and when segments are reserved and released, is decided by CachingAllocator.
//
// A segment comes from one cudaMalloc; or it is expandable, and then it is a range of addresses whose pages are mapped when they are
// needed. The blocks of a segment follow one another without gaps. Each pool has a set of its free blocks and one of its unmapped
// blocks.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <set>
#include <vector>

namespace torchprof {

// BlockRow::kind
inline constexpr int64_t kSmallPool = 1;
inline constexpr int64_t kExpandable = 2;

// Far above any device, far below an overflow: of one allocation and of a device, and of addresses.
inline constexpr int64_t kMostBytes = int64_t{1} << 50;
inline constexpr int64_t kLastAddress = int64_t{1} << 62;

// One block of a state that is read or restored. Rows are in order of address, those of a segment one after the other. A gap between
// two rows of an expandable segment is not mapped.
struct BlockRow {
  int64_t segment;  // its address
  int64_t address;
  int64_t bytes;
  int64_t id;  // -1: free
  int64_t stream;
  int64_t kind;
};

inline int64_t round_up(int64_t size, int64_t unit) { return (size + unit - 1) / unit * unit; }
inline int64_t round_down(int64_t size, int64_t unit) { return size / unit * unit; }

class AllocatorBlocks {
 public:
  struct Pool;

  struct Range {  // the addresses of an expandable segment
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
    bool active = false;   // allocated, or freed while another stream still uses it
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
  struct BySize {  // for best fit: the smallest block that is large enough, and of these the one at the lowest address
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

  struct InactiveSplit {  // free blocks of segments in use; expandable segments are not counted
    int64_t bytes = 0;
    int64_t blocks = 0;
  };

  AllocatorBlocks() = default;
  AllocatorBlocks(const AllocatorBlocks&) = delete;
  AllocatorBlocks& operator=(const AllocatorBlocks&) = delete;

  // The next segment begins at this address, unless another segment is there. 0: at any address.
  void place_next_segment(int64_t address) { next_segment_ = address; }
  bool next_segment_is_placed() const { return next_segment_ != 0; }
  // A segment that is one block, which is in no set.
  Block* new_segment(Pool& pool, int64_t size, int64_t stream);
  // An expandable segment that is one block, which is not mapped.
  Block* new_range(Pool& pool, int64_t size, int64_t page, int64_t stream);
  // Deletes the segment of a block that is all of it and in no set.
  void delete_segment(Block* block);

  // Removes a block from the set of free blocks.
  void remove_free(Block* block);
  // Splits a block that is in no set after `size` bytes. The rest is a free block.
  void trim(Block* block, int64_t size);
  // Merges a block that is in no set with its free neighbors, and inserts it into the set of free blocks.
  void insert_merged(Block* block);

  // The block at the lowest address after which `size` bytes are free or can be mapped; nullptr: there is none. If the next segment is
  // placed, the block that begins there, or whose mapping does, and none if that is outside of all ranges: one that was reserved in
  // vain, for lack of memory, is not known before it is used.
  Block* find_mappable(const Pool& pool, int64_t size, int64_t stream) const;
  // Maps the first bytes of an unmapped block, a multiple of the page size. They become a free block.
  void map(Block* block, int64_t bytes);
  // Unmaps the pages that lie wholly inside a free block. Returns their bytes.
  int64_t unmap(Block* block);

  // Adds the segment that these rows describe. An expandable one has pages of this size, and `room` bytes of addresses unless the next
  // segment begins before. Returns the blocks that have an id. Returns nothing if rows overlap or leave gaps: then this object must not
  // be used any more.
  std::optional<std::vector<Block*>> restore_segment(const BlockRow* rows, size_t count, int64_t next_segment, int64_t page,
                                                     int64_t room);
  std::vector<BlockRow> rows() const;
  const InactiveSplit& inactive_split() const { return inactive_split_; }

  Pool small{true, {}, {}};
  Pool large{false, {}, {}};

 private:
  bool in_range(int64_t address) const;
  void insert_free(Block* block);
  void merge(Block* block, Block* neighbor);
  Block* split_off(Block* block, int64_t size);
  Block* new_block(Pool& pool, int64_t address, int64_t size, int64_t stream, Range* range);
  void delete_block(Block* block);
  Range* add_range(int64_t address, int64_t size, int64_t page);
  int64_t new_address(int64_t size, int64_t used);
  int64_t free_address(int64_t from, int64_t size) const;

  InactiveSplit inactive_split_;
  std::deque<Block> blocks_;
  std::vector<Block*> unused_;
  std::map<int64_t, Range> ranges_;
  std::map<int64_t, int64_t> segments_;  // address -> end; of an expandable segment, the end of its first page
  int64_t next_address_ = int64_t{1} << 32;
  int64_t next_segment_ = 0;
};

}  // namespace torchprof
