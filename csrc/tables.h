// A whole recording, threads put together: one list per struct of events.h, and what was lost.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "events.h"

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
  std::vector<Arguments> arguments;
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

}  // namespace torchprof
