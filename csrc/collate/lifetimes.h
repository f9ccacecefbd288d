// From reports of memory to the life of every block: when it was handed out and given back, by which op, for which module,
// and how it was used in between. Pure, as collate is.
//
//   +64 @A ─────────── -64 @A      +64 @A ──────►        one address, two allocations, the second still held
//        op  read by backward            op
#pragma once

#include <cstdint>
#include <unordered_map>
#include <vector>

#include "trace/tables.h"

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

// What was handed out and not given back. Blocks from before the recording are no part of it.
class Outstanding {
 public:
  void follow(const MemoryEvent& event);
  int64_t bytes() const { return bytes_; }

 private:
  std::unordered_map<uint64_t, int64_t> blocks_;  // address -> bytes
  int64_t bytes_ = 0;
};

// Fills in the memory of tables.steps. `outstanding` is what is held before the first event, then what is after the last.
void account_steps(std::vector<Step>& steps, const std::vector<MemoryEvent>& events, Outstanding& outstanding);

}  // namespace torchprof
