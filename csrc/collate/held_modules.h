// The modules that hold tensors, also where none of their calls was recorded.
#pragma once

#include <vector>

#include "trace/tables.h"

namespace torchprof {

// Adds those to tables.modules that are not among them.
void add_modules(Tables& tables, const std::vector<Held>& held);

}  // namespace torchprof
