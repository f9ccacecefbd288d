// What every op belongs to: the phase of the training step, and the module call it worked for. Pure, as collate is.
#pragma once

#include "tables.h"

namespace torchprof {

// Fills in the phases and joins backward ops, and the accumulation of gradients, to the calls of the forward pass.
void attribute(Tables& tables);

}  // namespace torchprof
