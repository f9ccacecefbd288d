// Attributes the activity of devices to the program.
//
//   runtime call  ── by its thread and time ──►  the op and module call that were open there and then
//   kernel        ── by its correlation ──►      the runtime call that launched it, and so that call's op and module call
#pragma once

#include <cstdint>
#include <vector>

#include "trace/device_log.h"
#include "trace/tables.h"

namespace torchprof {

// Fills tables.kernels and tables.runtime_calls, in order of their start, and `busy` and `kernels` of the steps. All times of the
// report are nanoseconds of the trace and its names are rows of the trace's strings. `threads` has, for each row of tables.threads,
// its id as the report has it. Returns the longest time by which a kernel seems to begin before its launch: the clocks of device and
// host are off by at least as much.
int64_t attribute_kernels(Tables& tables, DeviceReport&& report, const std::vector<uint32_t>& threads);

// By row of ops.
struct DeviceTimes {
  std::vector<int64_t> self;     // nanoseconds of the kernels that it launched itself
  std::vector<int64_t> total;    // and of those that the ops inside it launched
  std::vector<int64_t> kernels;  // how many it launched itself
};
DeviceTimes device_times(const Tables& tables);

}  // namespace torchprof
