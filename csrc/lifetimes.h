// From reports of memory to the life of every block: when it was handed out and given back, by which op, for which module,
// and how it was used in between. Pure, as collate is.
//
//   +64 @A ─────────── -64 @A      +64 @A ──────►        one address, two allocations, the second still held
//        op  read by backward            op
#pragma once

#include <cstdint>
#include <vector>

#include "tables.h"

namespace torchprof {

// What is needed beside the tables. Events are in order of time.
struct MemoryReports {
  std::vector<MemoryEvent> events;
  std::vector<Held> held;
  std::vector<int32_t> ran_in;  // the call each op ran in, before it was joined to the one it worked for
  int64_t end = 0;              // of the recording
};

// Fills in tables.allocations. Needs phases and joins.
void find_allocations(Tables& tables, const MemoryReports& reports);

// Fills in the memory of tables.steps. Returns what is held after the last event, given what was held before the first.
int64_t account_steps(std::vector<Step>& steps, const std::vector<MemoryEvent>& events, int64_t held);

}  // namespace torchprof
