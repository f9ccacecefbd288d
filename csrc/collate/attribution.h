// Attributes every op to a phase of the training step and to a module call. Op::signature is still the row of the op's name.
#pragma once

#include <string_view>
#include <vector>

#include "collate/optimizer.h"
#include "trace/tables.h"

namespace torchprof {

// What the name of an op says about it.
enum class Role : uint8_t { kPlain, kEngine, kRun, kAccumulation, kOptimizer, kLoader };

std::vector<Role> roles(const Tables& tables);  // by row of strings

inline Phase phase(const Op& op) { return static_cast<Phase>(op.flags >> kPhaseShift); }
inline Phase phase(const ModuleCall& call) {
  return (call.flags & kLoadedData) != 0   ? Phase::kData
         : (call.flags & kRecomputed) != 0 ? Phase::kRecomputation
                                           : Phase::kForward;
}

struct Attributed {
  std::vector<int32_t> ran_in;  // the call each op ran in, which may not be the call that it is attributed to
  StateOwners state_owners;
  std::vector<int32_t> stacks;  // as op_stacks; of backward, those of the forward ops that it differentiates
};

// Fills in the phases, and attributes backward ops, the accumulation of gradients and the updates of parameters to module calls of
// the forward pass: see attribute_optimizer().
Attributed attribute(Tables& tables, const std::vector<MemoryEvent>* events, const std::vector<Held>& held,
                     ModelTensors& tensors);

}  // namespace torchprof
