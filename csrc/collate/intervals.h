// Turns the intervals that csrc/device/events/ measured into rows of the trace.
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

// Turns times, ops and module calls of the report's intervals into those of the trace. `threads` has the threads of the recording.
// Returns the nanoseconds by which the times may be off, at least. Intervals of a device whose clock was never read are lost.
int64_t place_intervals(DeviceReport& report, const std::vector<FirstRows>& threads, const TickConverter& clock);

// Gives an interval the name, phase and module call of its op, or else those of its module call, which must have been attributed.
// Returns the start of that op or call.
int64_t attribute_interval(const Tables& tables, Kernel& interval);

}  // namespace torchprof
