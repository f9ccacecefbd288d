// Logs -> tables. Pure: knows no observer, no Python and no PyTorch.
//
//   thread 0: ops 0..n      ids local to the thread,      ┐      one table each, threads one after the other,
//   thread 1: ops 0..m      ticks                         ├──►   ids of the whole trace, nanoseconds,
//   ...                                                   ┘      backward ops joined to forward module calls
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "clock.h"
#include "events.h"
#include "thread_log.h"

namespace torchprof {

// What the recording saw but could not keep.
struct Losses {
  uint64_t ops = 0;
  uint64_t operands = 0;
  uint64_t module_calls = 0;
  uint64_t allocations = 0;
  uint64_t unmatched_ends = 0;
};

struct Tables {
  std::vector<Op> ops;
  std::vector<int32_t> operands;
  std::vector<Tensor> tensors;
  std::vector<Shape> shapes;
  std::vector<int64_t> dims;
  std::vector<ModuleCall> module_calls;
  std::vector<Module> modules;
  std::vector<Allocation> allocations;
  std::vector<Mark> marks;
  std::vector<Thread> threads;
  std::vector<std::string> strings;
  Losses losses;
};

struct NamedTime {
  int64_t ticks;
  std::string name;
};

// Empties the logs.
Tables collate(std::vector<std::unique_ptr<ThreadLog>>& logs, const std::vector<NamedTime>& marks,
               const TickConverter& clock);

}  // namespace torchprof
