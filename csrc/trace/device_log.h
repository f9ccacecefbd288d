// What a device reported, before it is attributed to ops and module calls. Rows are those of rows.h, but some columns have another
// meaning until collate() fills them in:
//
//                   Activity::kInterval                              every other activity, and runtime calls
//   runtime_call    row of threads                                   the correlation of the call that launched it
//   op, module_call rows of that thread                              RuntimeCall::op is the driver's id of the thread
//   start, end      nanoseconds of the device: see DeviceClock       the recorder's clock; ticks in a DeviceReport
//   name            none yet                                         row of the strings beside the rows
//
// Only one thread at a time may write to it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "trace/append_log.h"
#include "trace/rows.h"
#include "trace/string_table.h"

namespace torchprof {

struct DeviceLog {
  explicit DeviceLog(Budget& budget) : kernels(budget), runtime_calls(budget) {}

  AppendLog<Kernel> kernels;
  AppendLog<RuntimeCall> runtime_calls;
  StringTable strings;
  uint64_t lost = 0;  // rows that came without times, or did not come
};

// How the time of a device, which is 0 at some event on it, relates to ticks.
struct DeviceClock {
  struct Reading {
    int64_t ticks;
    int64_t width;  // ticks that reading it took; 0: it was not read
  };
  Reading begin;    // at 0
  Reading end;      // at `elapsed`
  int64_t elapsed;  // nanoseconds
  int8_t device_index;
};

// The content of a DeviceLog, with what collate() needs to know about it.
struct DeviceReport {
  std::vector<Kernel> kernels;
  std::vector<RuntimeCall> runtime_calls;
  std::vector<DeviceClock> clocks;  // of the devices that have intervals
  std::vector<std::string> names;   // the strings that rows refer to
  uint64_t lost = 0;
  int64_t clock_error = 0;         // ticks by which times of devices may be off those of the host
  bool interrupted = false;        // reports went elsewhere, and how much is missing is not known
  bool system_thread_ids = false;  // RuntimeCall::op is gettid(), or else the lower half of pthread_self()
  std::string failure;             // an error of the device, after which nothing was recorded; empty: none
};

}  // namespace torchprof
