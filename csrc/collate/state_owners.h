// The state of an optimizer from before the recording: to which module it belongs.
#pragma once

#include <cstdint>
#include <vector>

#include "trace/tables.h"

namespace torchprof {

// Gives what an op of an optimizer reads to the module whose parameter or gradient it reads beside it.
//
//   addcdiv_(parameter, state, ...)                        the module that the op is attributed to
//   _foreach_addcdiv_([p, q], [state, state], [...])       that of the parameter or gradient at the same place of its list
//
// `rows` are the allocations of the inputs of the op, in order, or kNoRow.
void own_state(Tables& tables, const Op& op, const std::vector<int32_t>& rows);

}  // namespace torchprof
