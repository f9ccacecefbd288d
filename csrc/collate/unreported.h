// The memory of a device that the recording saw no report of. An allocator reports each block, and with it its totals:
//
//   +512, 1536 in total ──►  1024 are unreported: from before the recording, or from a thread that reports elsewhere
#pragma once

#include <vector>

#include "trace/rows.h"

namespace torchprof {

// Fills in `unreported`, in the sense of the table of allocations: a block that is allocated twice was freed in between, and one that
// is only freed is from before the recording. `totals` are those that changed (see record/allocator_statistics.h). They and `events`
// are in order of time, and totals have the times of their events. Returns the rows in which `reserved` or `unreported` changed.
std::vector<AllocatorTotal> find_unreported(const std::vector<AllocatorTotal>& totals, const std::vector<MemoryEvent>& events);

}  // namespace torchprof
