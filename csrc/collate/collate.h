// Logs -> tables. Pure: this directory depends neither on observers nor on Python or PyTorch.
//
//   thread 0: ops 0..n      rows of the thread,      ┐      one table each, threads one after the other,
//   thread 1: ops 0..m      ticks                    ├──►   rows of the trace, nanoseconds,
//   device: kernels 0..k                             ┘      each row attributed to its op, module call and phase
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "collate/blocks_met.h"
#include "collate/optimizer.h"
#include "collate/phase_times.h"
#include "collate/stacks.h"
#include "collate/step_memory.h"
#include "trace/clock.h"
#include "trace/device_log.h"
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

// What collate() needs beside the logs.
struct Context {
  const Moments& moments;
  const std::vector<Held>& held;
  const OpClasses& classes;  // what ops are to a count of FLOPs: see kNested
  bool memory;               // whether memory events were recorded
  TickConverter clock;
  int64_t end;               // of the logs, in ticks
  uint64_t main_thread = 0;  // PyTorch's id of the thread that records
  bool only_sums = false;    // single allocations are not needed
  bool stacks = false;       // whether they were recorded
};

struct Collated {
  Tables tables;
  PhaseTimes times;
  std::vector<int64_t> allocated;  // bytes by every op, with `only_sums`
};

// What logs need to know of those before them; it is brought up to date.
struct Carried {
  Outstanding outstanding;
  BlocksMet blocks;
  ModelTensors tensors;
  MergedStacks stacks;
};

// All that a log has or had to drop, as if it were lost.
Losses losses_of_all(const ThreadLog& log);

// Empties the logs. Where it throws (std::bad_alloc), what is carried cannot be used any more.
Collated collate(std::vector<std::unique_ptr<ThreadLog>>& logs, DeviceReport devices, const Context& context, Carried& carried);

}  // namespace torchprof
