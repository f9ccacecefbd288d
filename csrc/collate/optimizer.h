// Attributes the ops of an optimizer to the modules whose parameters they update, and its state to these modules.
#pragma once

#include <cstdint>
#include <unordered_map>
#include <vector>

#include "trace/flat_map.h"
#include "trace/tables.h"

namespace torchprof {

using StateOwners = std::unordered_map<uint32_t, uint64_t>;  // row of operands -> address of the module, as in Module

// The parameters and gradients of a model: their modules, until they are freed.
struct ModelTensor {
  uint64_t module;  // its address, as in Module; 0: several modules share it
  bool is_parameter;
};
using ModelTensors = FlatMap<ModelTensor>;  // by block_key() of the storage

ModelTensors held_by_model(bool at_end, const std::vector<Held>& held);

// Attributes each op inside an optimizer's step to a call of the module whose parameter it updates, in the same step of the loop: the
// latest one before it, or else the next one. An op for the parameters of several modules at once (foreach, fused) is attributed to
// none. Returns the modules of what the ops read, each where it is read first. `events` are null where memory was not recorded:
// then an address may be that of another tensor by now. `tensors` are those before the first event, and afterwards those after the last. Nothing else from before a step of the loop counts, so that the sums of
// steps are those of the whole recording.
// `held`: of that, parameters that were made meanwhile count, from their allocation on.
StateOwners attribute_optimizer(Tables& tables, const std::vector<MemoryEvent>* events, const std::vector<Held>& held,
                                ModelTensors& tensors);

}  // namespace torchprof
