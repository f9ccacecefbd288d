// Attributes the ops of an optimizer to the modules whose parameters they update.
#pragma once

#include <vector>

#include "trace/tables.h"

namespace torchprof {

// Attributes each op inside an optimizer's step to the latest call of the module whose parameter it reads. An op that reads the
// parameters of several modules at once (foreach, fused) is attributed to none.
void attribute_optimizer(Tables& tables, const std::vector<Held>& held);

}  // namespace torchprof
