// Places intervals between events of a device on the axis of the trace, and among its rows. Pure.
#pragma once

#include <cstdint>
#include <vector>

#include "trace/clock.h"
#include "trace/device_log.h"
#include "trace/tables.h"

namespace torchprof {

// Where the rows of a thread begin in the tables of the trace.
struct FirstRows {
  int32_t op;
  int32_t module_call;
};

// Turns times, ops and calls of the report's intervals into those of the trace. `threads` has the threads of the recording. Returns
// by how many nanoseconds the times may be off, at least; intervals of a device whose clock was never read are lost.
int64_t place_intervals(DeviceReport& report, const std::vector<FirstRows>& threads, const TickConverter& clock);

// Names an interval after what it is of, whose phase and module it has; when its op and call know theirs. Returns when that began.
int64_t attribute_interval(const Tables& tables, Kernel& interval);

}  // namespace torchprof
