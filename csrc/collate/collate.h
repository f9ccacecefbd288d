// Logs -> tables. Pure: knows no observer, no Python and no PyTorch.
//
//   thread 0: ops 0..n      ids local to the thread,      ┐      one table each, threads one after the other,
//   thread 1: ops 0..m      ticks                         ├──►   ids of the whole trace, nanoseconds,
//   ...                                                   ┘      what belongs together joined
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "trace/clock.h"
#include "trace/device_log.h"
#include "collate/lifetimes.h"
#include "trace/list_table.h"
#include "trace/string_table.h"
#include "trace/tables.h"
#include "trace/thread_log.h"

namespace torchprof {

// What the caller named, in ticks.
struct Moments {
  struct Named {
    int64_t ticks;
    std::string name;
  };
  std::vector<Named> marks;
  std::vector<Step> steps;
};

// The tables that threads share once their logs meet.
class Shared {
 public:
  uint32_t string(const std::string& text) { return strings_.id(text); }
  uint32_t shape(const int64_t* dims, size_t ndim) { return shapes_.id(dims, ndim); }
  uint32_t module(Module module);
  void move_into(Tables& tables);

 private:
  StringTable strings_;
  ListTable shapes_;
  std::vector<Module> modules_;
  std::map<std::pair<uint64_t, uint32_t>, uint32_t> module_ids_;
};

// What the logs do not say.
struct Context {
  const Moments& moments;
  const std::vector<Held>& held;
  const OpNames& counted_ops;  // whose FLOPs are counted: see kNested
  bool memory;                 // whether reports of memory were recorded
  TickConverter clock;
  int64_t end;                 // of the logs, in ticks
};

// Empties the logs. `outstanding` is what was handed out before they began, and is brought up to date.
Tables collate(std::vector<std::unique_ptr<ThreadLog>>& logs, DeviceReport devices, const Context& context, Outstanding& outstanding);

}  // namespace torchprof
