// The memory of the steps of a loop, from memory events.
#pragma once

#include <cstdint>
#include <vector>

#include "trace/flat_map.h"
#include "trace/rows.h"

namespace torchprof {

// The memory that was allocated since the recording began and not freed.
class Outstanding {
 public:
  void follow(const MemoryEvent& event);
  int64_t bytes() const { return bytes_; }
  const FlatMap<int64_t>& blocks() const { return blocks_; }

 private:
  FlatMap<int64_t> blocks_;  // block_key() -> bytes
  int64_t bytes_ = 0;
};

// Fills in the memory of the steps. `outstanding` is the memory before the first event, and afterwards that after the last.
void account_steps(std::vector<Step>& steps, const std::vector<MemoryEvent>& events, Outstanding& outstanding);

}  // namespace torchprof
