// Ties what devices did to the program. Pure.
//
//   call of the runtime  ── made on a thread at a time ──►  op and module call that were open there then
//   kernel               ── by its correlation ──►          the call that asked for it, and so its op and module call
#pragma once

#include <cstdint>
#include <vector>

#include "trace/device_log.h"
#include "trace/tables.h"

namespace torchprof {

// Fills tables.kernels and tables.runtime_calls, in order of their start, and of steps what was done for them. All times are
// nanoseconds of the trace and names rows of its strings. `threads` is, for each row of tables.threads, its id as the report has it.
// Returns by how much the earliest kernel seems to have begun before it was asked for: what clocks are off, at least.
int64_t join_kernels(Tables& tables, DeviceReport&& report, const std::vector<uint32_t>& threads);

// For each op, what the kernels took that it asked for itself.
struct DeviceTimes {
  std::vector<int64_t> self;
  std::vector<int64_t> total;  // with the ops inside
  std::vector<int64_t> kernels;
};
DeviceTimes device_times(const Tables& tables);

}  // namespace torchprof
