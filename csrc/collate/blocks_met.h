// Storages whose memory nobody reports become allocations where they were first used, unless they lie in a block that is known:
//
//   +4096 @A (a file is mapped) ───────────────── -4096 @A
//        met 1024 @A+512 (a weight in it)                      around[A+512] = A: no block of its own
//        met 800 @N (an array of NumPy)  ──► +800 @N ─── -800 @N, when the storage has ended
#pragma once

#include <cstdint>
#include <map>
#include <unordered_map>
#include <vector>

#include "collate/step_memory.h"
#include "trace/tables.h"

namespace torchprof {

inline constexpr uint64_t kNothing = 0;

struct Around {
  uint64_t address;    // kNothing: it belongs to no tensor, and counts as no memory
  int8_t device_type;  // which may be another one: memory of a device that the host can use
};
using BlocksAround = std::unordered_map<uint64_t, Around>;  // by address of the one inside, which is the CPU's

class BlocksMet {
 public:
  // Brings `events` up to date, of which and of `met` each is in order of time. `outstanding`: the blocks that were allocated before;
  // `held`: those of the model. Returns the block around each that lies in another one.
  BlocksAround add_to(std::vector<MemoryEvent>& events, const std::vector<BlockMet>& met, const std::vector<Held>& held,
                      const Outstanding& outstanding);

 private:
  enum class Source : uint8_t { kBefore, kAllocated, kReported, kMet };
  struct Block {
    uint64_t end;
    uint32_t number;  // no other block has it
    uint32_t storages;
    int8_t device_type;
    Source source;
  };
  using Blocks = std::map<uint64_t, Block>;  // by address
  struct Storage {
    uint64_t address;  // of its block, as the next
    uint32_t number;
    Ends ends;
  };

  void begin(const std::vector<Held>& held, const Outstanding& outstanding);
  void add(uint64_t address, int64_t bytes, int8_t device_type, Source source);
  void follow(const MemoryEvent& event);
  void meet(const BlockMet& met);
  void end(const BlockMet& storage);
  void free(const MemoryEvent& event);
  void free_below(const MemoryEvent& event);
  Blocks::iterator block_around(uint64_t address, uint64_t end);
  void note_around(uint64_t address, Blocks::iterator block);
  void count(const BlockMet& storage, Blocks::iterator block);

  bool has_begun_ = false;  // only where it is needed
  Blocks open_;
  std::unordered_map<uint32_t, Storage> storages_;  // by number
  BlocksAround around_;
  uint32_t latest_ = 0;
  std::vector<MemoryEvent> events_;
};

}  // namespace torchprof
