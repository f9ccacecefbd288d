// What devices reported, not yet tied to the program: rows as events.h has them, but for
//
//   Kernel::runtime_call   the correlation of the call that asked for it
//   RuntimeCall::op        the thread that made it, as the device's driver names threads
//
// and times are those of the clock that the driver was given. Intervals know their op and call, as rows of the thread that is their
// runtime_call; they have no name yet, and their times are nanoseconds of the device: see DeviceClock. Whoever writes here sees to it that nobody else does.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "trace/append_log.h"
#include "trace/events.h"
#include "trace/string_table.h"

namespace torchprof {

struct DeviceLog {
  explicit DeviceLog(Budget& budget) : kernels(budget), runtime_calls(budget) {}

  AppendLog<Kernel> kernels;
  AppendLog<RuntimeCall> runtime_calls;
  StringTable strings;
  uint64_t lost = 0;  // reported without times, or not at all
};

// How the time of a device, whose 0 is an event of its own, relates to ticks.
struct DeviceClock {
  struct Reading {
    int64_t ticks;
    int64_t width;  // ticks that reading took; 0: it was not read
  };
  Reading begin;    // at 0
  Reading end;      // at `elapsed`
  int64_t elapsed;  // nanoseconds
  int8_t device_index;
};

// The same, handed over: times are ticks, but for those of intervals.
struct DeviceReport {
  std::vector<Kernel> kernels;
  std::vector<RuntimeCall> runtime_calls;
  std::vector<DeviceClock> clocks;  // of the devices that have intervals
  std::vector<std::string> names;  // what the rows name
  uint64_t lost = 0;
  int64_t clock_error = 0;         // ticks by which times of devices may be off those of the host
  bool interrupted = false;        // another took the reports over, and how much is missing is not known
  bool system_thread_ids = false;  // else those of POSIX threads, their lower halves
};

}  // namespace torchprof
