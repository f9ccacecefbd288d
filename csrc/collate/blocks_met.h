// Blocks whose allocation nobody reported become allocations where they were first used, unless they lie in a block that is known:
//
//   +4096 @A (a file is mapped) ───────────────── -4096 @A
//        met 1024 @A+512 (a weight in it)                      around[A+512] = A: no block of its own
//        met 800 @N (an array of NumPy)  ──► +800 @N ─── -800 @N
#pragma once

#include <cstdint>
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

// Brings `events` up to date, of which and of `met` each is in order of time. `outstanding`: the blocks that were allocated before;
// `held`: those from before the recording. Returns the block around each that lies in another one.
BlocksAround add_blocks_met(std::vector<MemoryEvent>& events, const std::vector<BlockMet>& met, const std::vector<Held>& held,
                            const Outstanding& outstanding);

}  // namespace torchprof
