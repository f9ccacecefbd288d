// Finds the ops whose work is part of another op's, so that FLOPs and bytes are counted once: sets kNested and kWrapper.
// Op::signature is still the row of the op's name.
#pragma once

#include "trace/tables.h"
#include "trace/thread_log.h"

namespace torchprof {

void mark_nested(Tables& tables, const OpClasses& classes);

}  // namespace torchprof
