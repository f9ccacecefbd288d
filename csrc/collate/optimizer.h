// Attributes the ops of an optimizer to the modules whose parameters they update, and its state to these modules.
#pragma once

#include <cstdint>
#include <unordered_map>
#include <vector>

#include "trace/tables.h"

namespace torchprof {

using StateOwners = std::unordered_map<uint32_t, uint64_t>;  // row of operands -> address of the module, as in Module

// Attributes each op inside an optimizer's step to the latest call of the module whose parameter it updates. An op for the parameters
// of several modules at once (foreach, fused) is attributed to none. Returns the modules of what the ops read that was there before
// the step, each where it is read first.
StateOwners attribute_optimizer(Tables& tables, const std::vector<Held>& held);

}  // namespace torchprof
