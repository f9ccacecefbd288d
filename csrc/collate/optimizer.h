// Attributes the ops of an optimizer to the modules whose parameters they update, and its state to these modules.
#pragma once

#include <cstdint>
#include <unordered_map>
#include <vector>

#include "collate/step_memory.h"
#include "trace/tables.h"

namespace torchprof {

using StateOwners = std::unordered_map<uint32_t, uint64_t>;  // row of operands -> address of the module, as in Module

// What tells the tensors of a model apart from others that have their addresses later.
struct ModelMemory {
  const std::vector<Held>& held;
  const std::vector<MemoryEvent>& events;  // in order of time
  const Outstanding& outstanding;          // what was allocated before the first event, and since the recording began
};

// Attributes each op inside an optimizer's step to a call of the module whose parameter it updates, in the same step of the loop: the
// latest one before it, or else the next one. An op for the parameters of several modules at once (foreach, fused) is attributed to
// none. Returns the modules of what the ops read, each where it is read first. What was recorded before a step of the loop does not
// count, so that sums of steps are those of the whole recording.
StateOwners attribute_optimizer(Tables& tables, const ModelMemory& memory);

}  // namespace torchprof
