// Whose parameter an op of an optimizer updates. Pure, as collate is.
#pragma once

#include <vector>

#include "trace/tables.h"

namespace torchprof {

// Joins ops inside an optimizer's step to the latest call of the module whose parameter they work on. An op that works on
// the parameters of several modules at once (foreach, fused) belongs to none.
void join_optimizer(Tables& tables, const std::vector<Held>& held);

}  // namespace torchprof
