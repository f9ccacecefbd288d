// A whole recording with its threads put together: one list per struct of rows.h, and what was lost.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "trace/rows.h"

namespace torchprof {

// What the recording saw but could not keep.
struct Losses {
  uint64_t ops = 0;
  uint64_t operands = 0;
  uint64_t module_calls = 0;
  uint64_t allocations = 0;
  uint64_t kernels = 0;  // and runtime calls
  uint64_t stacks = 0;   // of ops, module calls and allocations
  uint64_t marks = 0;
  uint64_t unmatched_ends = 0;

  void operator+=(const Losses& more) {
    ops += more.ops;
    operands += more.operands;
    module_calls += more.module_calls;
    allocations += more.allocations;
    kernels += more.kernels;
    stacks += more.stacks;
    marks += more.marks;
    unmatched_ends += more.unmatched_ends;
  }
};

struct Tables {
  std::vector<Op> ops;
  std::vector<int32_t> operands;
  std::vector<Tensor> tensors;
  std::vector<Signature> signatures;
  std::vector<Shape> shapes;
  std::vector<int64_t> dims;
  std::vector<ModuleCall> module_calls;
  std::vector<Module> modules;
  std::vector<Allocation> allocations;
  std::vector<AllocatorTotal> allocator_totals;
  std::vector<Kernel> kernels;
  std::vector<RuntimeCall> runtime_calls;
  std::vector<Mark> marks;
  std::vector<Step> steps;
  std::vector<OpTotal> op_totals;
  std::vector<CallTotal> call_totals;
  std::vector<KernelTotal> kernel_totals;
  std::vector<Thread> threads;
  std::vector<Function> functions;
  std::vector<Stack> stacks;
  std::vector<int32_t> op_stacks;  // row of stacks of every op, as the next two; empty where there are no stacks
  std::vector<int32_t> call_stacks;
  std::vector<int32_t> allocation_stacks;
  std::vector<std::string> strings;
  Losses losses;
  bool devices_interrupted = false;  // the reports of a device broke off, and how much is missing is not known
  int64_t device_clock_error = 0;    // nanoseconds by which times of devices may be off those of the host, at least
};

// Calls visit(name, rows) for every table of rows, in the order of the file format.
template <typename Visit>
void for_each_table(Tables& tables, Visit visit) {
  visit("ops", tables.ops);
  visit("operands", tables.operands);
  visit("tensors", tables.tensors);
  visit("signatures", tables.signatures);
  visit("shapes", tables.shapes);
  visit("dims", tables.dims);
  visit("module_calls", tables.module_calls);
  visit("modules", tables.modules);
  visit("allocations", tables.allocations);
  visit("allocator_totals", tables.allocator_totals);
  visit("kernels", tables.kernels);
  visit("runtime_calls", tables.runtime_calls);
  visit("marks", tables.marks);
  visit("steps", tables.steps);
  visit("op_totals", tables.op_totals);
  visit("call_totals", tables.call_totals);
  visit("kernel_totals", tables.kernel_totals);
  visit("threads", tables.threads);
  visit("functions", tables.functions);
  visit("stacks", tables.stacks);
  visit("op_stacks", tables.op_stacks);
  visit("call_stacks", tables.call_stacks);
  visit("allocation_stacks", tables.allocation_stacks);
}

// The same for the counters of Losses.
template <typename Visit>
void for_each_loss(const Losses& losses, Visit visit) {
  visit("ops", losses.ops);
  visit("operands", losses.operands);
  visit("module_calls", losses.module_calls);
  visit("allocations", losses.allocations);
  visit("kernels", losses.kernels);
  visit("stacks", losses.stacks);
  visit("marks", losses.marks);
  visit("unmatched_ends", losses.unmatched_ends);
}

// What the program says its model holds, at the start and at the end of the recording.
struct Held {
  uint64_t address;  // of the storage, as in Tensor
  int64_t bytes;
  uint64_t module;   // id() of the module that has it
  std::string type;  // its class
  uint16_t uses;     // kParameter, kBuffer or kGradient
  int8_t device_type;
  int8_t device_index;
  bool at_end;  // false: when the recording started
};

}  // namespace torchprof
