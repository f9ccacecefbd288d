// Whose work an op's work is part of, so that FLOPs and bytes are counted once: see kNested and kWrapper. Pure, as collate
// is. Runs while Op::signature still is the row of the op's name.
#pragma once

#include "trace/tables.h"
#include "trace/thread_log.h"

namespace torchprof {

void mark_nested(Tables& tables, const OpNames& counted_ops);

}  // namespace torchprof
