#include "collate/collate.h"

#include <cxxabi.h>

#include <algorithm>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <utility>

#include "collate/attribution.h"
#include "collate/blocks_met.h"
#include "collate/held_modules.h"
#include "collate/interner.h"
#include "collate/intervals.h"
#include "collate/kernels.h"
#include "collate/lifetimes.h"
#include "collate/nesting.h"
#include "collate/signatures.h"
#include "collate/unreported.h"

namespace torchprof {
namespace {

// Turns the rows of one thread into rows of the trace. Constructed before any row of the thread is appended to the tables.
class Translation {
 public:
  Translation(const ThreadLog& log, Interner& interner, const Tables& tables, const TickConverter& clock, MergedStacks& stacks)
      : clock_(clock),
        log_(log),
        merged_(stacks),
        op_(static_cast<int32_t>(tables.ops.size())),
        call_(static_cast<int32_t>(tables.module_calls.size())),
        operand_(static_cast<uint32_t>(tables.operands.size())),
        tensor_(static_cast<int32_t>(tables.tensors.size())) {
    for (uint32_t id = 0; id < log.strings.size(); ++id) {
      strings_.push_back(interner.string(log.strings[id]));
    }
    for (const Shape& shape : log.shapes.lists()) {
      shapes_.push_back(interner.shape(log.shapes.values().data() + shape.first, shape.ndim));
    }
    for (const Module& module : log.modules) {
      modules_.push_back(interner.module({module.address, strings_[module.type], 0}));
    }
  }

  void operator()(Op& op) const {
    op.start = ns(op.start);
    op.end = ns(op.end);
    op.signature = strings_[op.signature];
    op.parent = row(op.parent, op_);
    op.module_call = row(op.module_call, call_);
    op.inputs += operand_;
    op.outputs += operand_;
  }
  void operator()(int32_t& operand) const { operand += tensor_; }
  void operator()(Arguments& arguments) const {
    arguments.op = row(arguments.op, op_);
    arguments.inputs = strings_[arguments.inputs];
    arguments.outputs = strings_[arguments.outputs];
  }
  void operator()(Tensor& tensor) const {
    tensor.shape = shapes_[tensor.shape];
    if ((tensor.flags & kObject) != 0) {
      tensor.storage = strings_[tensor.storage];
    }
  }
  void operator()(ModuleCall& call) const {
    call.start = ns(call.start);
    call.end = ns(call.end);
    call.module = modules_[call.module];
    call.parent = row(call.parent, call_);
    call.op = row(call.op, op_);
    call.inputs += operand_;
    call.outputs += operand_;
    call.stack = merged_.row(log_, call.stack);
  }
  void operator()(MemoryEvent& event) const {
    event.time = ns(event.time);
    event.stack = merged_.row_of_memory(log_, event.stack);
    event.op = row(event.op, op_);
    event.module_call = row(event.module_call, call_);
  }
  void operator()(BlockMet& met) const {
    met.time = ns(met.time);
    met.op = row(met.op, op_);
    met.module_call = row(met.module_call, call_);
  }
  void operator()(AllocatorTotal& total) const { total.time = ns(total.time); }

 private:
  int64_t ns(int64_t ticks) const { return ticks == kNever ? kNever : clock_.ns(ticks); }
  static int32_t row(int32_t local, int32_t base) { return local == kNoRow ? kNoRow : local + base; }

  const TickConverter& clock_;
  const ThreadLog& log_;
  MergedStacks& merged_;
  const int32_t op_;
  const int32_t call_;
  const uint32_t operand_;
  const int32_t tensor_;
  std::vector<uint32_t> strings_;
  std::vector<uint32_t> shapes_;
  std::vector<uint32_t> modules_;
};

template <typename Row>
void move_rows(AppendLog<Row>& log, const Translation& translate, std::vector<Row>& table) {
  log.drain([&](const Row* rows, size_t count) {
    const size_t first = table.size();
    table.insert(table.end(), rows, rows + count);
    std::for_each(table.begin() + static_cast<std::ptrdiff_t>(first), table.end(), translate);
  });
}

// What a log had to drop.
Losses losses_of(const ThreadLog& log) {
  Losses losses;
  losses.ops = log.ops.dropped();
  losses.operands = log.operands.dropped() + log.tensors.dropped() + log.arguments.dropped();
  losses.module_calls = log.module_calls.dropped();
  losses.allocations = log.memory_events.dropped() + log.blocks_met.dropped() + log.allocator_totals.dropped();
  losses.stacks = log.stacks_lost;
  losses.unmatched_ends = log.unmatched_ends;
  return losses;
}

// The rows of one thread are in order, and so are all if there is only one.
template <typename Row>
void sort_by_time(std::vector<Row>& rows) {
  const auto earlier = [](const Row& a, const Row& b) { return a.time < b.time; };
  if (!std::is_sorted(rows.begin(), rows.end(), earlier)) {
    std::stable_sort(rows.begin(), rows.end(), earlier);
  }
}

std::string demangled(const std::string& name) {
  int status = 0;
  char* const text = abi::__cxa_demangle(name.c_str(), nullptr, nullptr, &status);
  std::string found = status == 0 && text != nullptr ? text : name;
  std::free(text);
  return found;
}

std::vector<int64_t> allocated_by_ops(const std::vector<MemoryEvent>& events, size_t ops) {
  std::vector<int64_t> allocated(ops);
  for (const MemoryEvent& event : events) {
    if (event.bytes > 0 && event.op != kNoRow) {
      allocated[event.op] += event.bytes;
    }
  }
  return allocated;
}

void place_calls(Tables& tables) {
  for (ModuleCall& call : tables.module_calls) {
    tables.call_stacks.push_back(std::exchange(call.stack, 0));
  }
}

// Turns ticks into nanoseconds and names into rows of the trace's strings. Intervals have neither: see place_intervals().
void translate(DeviceReport& devices, Interner& interner, const TickConverter& clock) {
  std::vector<uint32_t> strings;
  for (const std::string& name : devices.names) {
    strings.push_back(interner.string(demangled(name)));
  }
  const auto each = [&](auto& row) {
    row.start = clock.ns(row.start);
    row.end = clock.ns(row.end);
    row.name = strings[row.name];
  };
  for (Kernel& kernel : devices.kernels) {
    if (kernel.kind != static_cast<uint8_t>(Activity::kInterval)) {
      each(kernel);
    }
  }
  std::for_each(devices.runtime_calls.begin(), devices.runtime_calls.end(), each);
}

}  // namespace

Losses losses_of_all(const ThreadLog& log) {
  Losses losses = losses_of(log);
  losses.ops += log.ops.size();
  losses.operands += log.operands.size();
  losses.module_calls += log.module_calls.size();
  losses.allocations += log.memory_events.size() + log.blocks_met.size();
  return losses;
}

Collated collate(std::vector<std::unique_ptr<ThreadLog>>& logs, DeviceReport devices, const Context& context,
                 Carried& carried) {
  const TickConverter& clock = context.clock;
  Tables tables;
  Interner interner;
  std::vector<Arguments> arguments;
  std::vector<uint32_t> thread_ids;  // as the device's driver reports them
  std::vector<FirstRows> first_rows;
  MemoryReports memory;
  std::vector<BlockMet> met;
  std::vector<AllocatorTotal> totals;
  const auto total = [&](auto member) {
    size_t rows = 0;
    for (const auto& log : logs) {
      rows += (log.get()->*member).size();
    }
    return rows;
  };
  for (const size_t rows : {total(&ThreadLog::ops), total(&ThreadLog::operands), total(&ThreadLog::tensors),
                            total(&ThreadLog::module_calls), total(&ThreadLog::memory_events)}) {
    if (rows > INT32_MAX) {
      throw std::runtime_error("a recording has at most 2**31 - 1 rows in a table, and this one has " + std::to_string(rows) +
                               ": record fewer steps, or give it a smaller budget");
    }
  }
  tables.ops.reserve(total(&ThreadLog::ops));
  tables.operands.reserve(total(&ThreadLog::operands));
  tables.tensors.reserve(total(&ThreadLog::tensors));
  tables.module_calls.reserve(total(&ThreadLog::module_calls));
  memory.events.reserve(total(&ThreadLog::memory_events));

  for (const auto& log : logs) {
    carried.stacks.add(*log);
    const Translation translate(*log, interner, tables, clock, carried.stacks);
    tables.losses += losses_of(*log);
    tables.threads.push_back(log->identity);
    first_rows.push_back({static_cast<int32_t>(tables.ops.size()), static_cast<int32_t>(tables.module_calls.size())});
    thread_ids.push_back(static_cast<uint32_t>(devices.system_thread_ids ? log->identity.native_id : log->posix_id));
    move_rows(log->ops, translate, tables.ops);
    if (context.stacks) {
      carried.stacks.place_ops(*log, tables.ops, tables.op_stacks);
    }
    move_rows(log->operands, translate, tables.operands);
    move_rows(log->tensors, translate, tables.tensors);
    move_rows(log->arguments, translate, arguments);
    move_rows(log->module_calls, translate, tables.module_calls);
    move_rows(log->memory_events, translate, memory.events);
    move_rows(log->blocks_met, translate, met);
    move_rows(log->allocator_totals, translate, totals);
  }
  tables.losses.stacks += carried.stacks.take_lost();
  sort_by_time(memory.events);
  sort_by_time(met);
  sort_by_time(totals);
  memory.around = carried.blocks.add_to(memory.events, met, context.held, carried.outstanding);
  for (const Moments::Named& mark : context.moments.marks) {
    tables.marks.push_back({clock.ns(mark.ticks), interner.string(mark.name), 0});
  }
  for (Step step : context.moments.steps) {
    step.start = clock.ns(step.start);
    step.end = clock.ns(step.end);
    tables.steps.push_back(step);
  }
  translate(devices, interner, clock);
  const int64_t interval_error = place_intervals(devices, first_rows, clock);
  tables.losses.kernels += devices.lost;
  tables.devices_interrupted = devices.interrupted;
  const auto device_clock_error = static_cast<int64_t>(static_cast<double>(devices.clock_error) * clock.ns_per_tick());
  if (context.stacks) {
    place_calls(tables);
    if (!context.only_sums) {
      carried.stacks.copy_into(tables, interner);
    }
  }
  interner.copy_into(tables);

  memory.held = context.held;
  memory.end = clock.ns(context.end);
  memory.stacks = context.stacks;
  memory.attributed = attribute(tables, context.memory ? &memory.events : nullptr, context.held, carried.tensors);
  tables.device_clock_error =
      std::max({device_clock_error, interval_error, attribute_kernels(tables, std::move(devices), thread_ids)});
  PhaseTimes times = find_phase_times(tables, first_rows, context.main_thread, memory.end);
  mark_nested(tables, context.classes);
  std::vector<int64_t> allocated;
  if (context.only_sums) {
    tables.op_stacks = std::move(memory.attributed.stacks);
    if (context.memory) {
      add_modules(tables, context.held);
    }
    allocated = allocated_by_ops(memory.events, tables.ops.size());
  } else if (context.memory) {
    find_allocations(tables, memory);
    tables.allocator_totals = find_unreported(totals, memory.events);
  }
  if (!tables.steps.empty()) {
    account_steps(tables.steps, memory.events, carried.outstanding);
  }
  assign_signatures(tables, arguments);
  return {std::move(tables), std::move(times), std::move(allocated)};
}

}  // namespace torchprof
