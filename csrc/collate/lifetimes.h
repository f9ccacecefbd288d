// Memory events -> allocations: when each block was allocated and freed, by which op, for which module, and how it was used.
//
//   +64 @A ─────────── -64 @A      +64 @A ──────►        one address, two allocations, the second still held
//        op  read by backward            op
#pragma once

#include <cstdint>
#include <vector>

#include "collate/attribution.h"
#include "collate/blocks_met.h"
#include "trace/tables.h"

namespace torchprof {

// What is needed beside the tables.
struct MemoryReports {
  std::vector<MemoryEvent> events;  // in order of time
  BlocksAround around;
  std::vector<Held> held;
  Attributed attributed;
  int64_t end = 0;      // of the recording
  bool stacks = false;  // whether they were recorded
};

// Fills in tables.allocations. Needs the phases and module calls of the ops.
void find_allocations(Tables& tables, const MemoryReports& reports);

}  // namespace torchprof
