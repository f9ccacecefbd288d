#include "collate/totals.h"

#include <algorithm>
#include <unordered_map>

#include "collate/attribution.h"
#include "collate/kernels.h"

namespace torchprof {
namespace {

template <typename Row>
std::vector<int64_t> durations(const std::vector<Row>& rows) {
  std::vector<int64_t> found;
  found.reserve(rows.size());
  for (const Row& row : rows) {
    found.push_back(row.end == kNever ? 0 : row.end - row.start);
  }
  return found;
}

template <typename Total>
void count(Total& total, int64_t time, int64_t self_time) {
  total.min = total.count == 0 ? time : std::min(total.min, time);
  total.max = std::max(total.max, time);
  ++total.count;
  total.self_time += self_time;
}

}  // namespace

void Totals::add(const Tables& step, const PhaseTimes& times, const std::vector<int64_t>& allocated) {
  std::vector<uint32_t> strings(step.strings.size(), kNoName), shapes(step.shapes.size(), kNoName), modules, signatures;
  interner_.set_room(has_room());
  // Only of what the sums refer to: names of marks are new at every step.
  const auto use_string = [&](uint32_t row) {
    if (row != kNoName && strings[row] == kNoName) {
      strings[row] = interner_.string(step.strings[row]);
    }
  };
  const auto use_shapes = [&](uint32_t first, uint32_t count) {
    for (uint32_t i = first; i < first + count; ++i) {
      const uint32_t row = step.tensors[step.operands[i]].shape;
      if (shapes[row] == kNoName) {
        shapes[row] = interner_.shape(step.dims.data() + step.shapes[row].first, step.shapes[row].ndim);
      }
    }
  };
  for (const Signature& signature : step.signatures) {
    use_string(signature.name);
    use_string(signature.arguments);
    use_string(signature.results);
    use_shapes(signature.inputs, signature.n_inputs);
    use_shapes(signature.outputs, signature.n_outputs);
  }
  for (const Kernel& kernel : step.kernels) {
    use_string(kernel.name);
  }
  ++steps_;
  for (const Module& module : step.modules) {
    use_string(module.type);
    const uint32_t row =
        strings[module.type] != kNoName ? interner_.module({module.address, strings[module.type], 0}) : kNoName;
    modules.push_back(row);
    if (row != kNoName) {
      called_.resize(interner_.modules());
      called_[row] = steps_;
    }
  }
  for (const Signature& signature : step.signatures) {
    signatures.push_back(add_signature(signature, step, strings, shapes));
  }

  // First what may fail: rows are found or added. Then figures are added to them.
  const bool on_device = !step.kernels.empty();
  const DeviceTimes device = on_device ? device_times(step) : DeviceTimes{};
  const std::vector<int64_t> op_times = durations(step.ops);
  const std::vector<int64_t> call_times = durations(step.module_calls);
  const Losses before = losses_;
  std::vector<size_t> op_rows, kernel_rows, call_rows;
  try {
    op_rows = rows_of_ops(step, signatures, modules);
    kernel_rows = rows_of_kernels(step, strings, modules);
    call_rows = rows_of_calls(step, modules);
  } catch (...) {
    losses_ = before;
    throw;
  }

  for (size_t row = 0; row < step.ops.size(); ++row) {
    if (op_rows[row] == kNoRoom) {
      continue;
    }
    OpTotal& total = tables_.op_totals[op_rows[row]];
    count(total, op_times[row], times.op_self[row]);
    total.time += op_times[row];
    total.allocated += allocated[row];
    if (on_device) {
      total.device_time += device.total[row];
      total.device_self += device.self[row];
      total.kernels += device.kernels[row];
    }
  }
  for (size_t row = 0; row < step.kernels.size(); ++row) {
    if (kernel_rows[row] == kNoRoom) {
      continue;
    }
    const Kernel& kernel = step.kernels[row];
    KernelTotal& sum = tables_.kernel_totals[kernel_rows[row]];
    const int64_t time = kernel.end - kernel.start;
    sum.min = sum.count == 0 ? time : std::min(sum.min, time);
    sum.max = std::max(sum.max, time);
    ++sum.count;
    sum.time += time;
    sum.bytes += kernel.bytes;
  }
  for (size_t row = 0; row < step.module_calls.size(); ++row) {
    if (call_rows[row] == kNoRoom) {
      continue;
    }
    const ModuleCall& call = step.module_calls[row];
    CallTotal& total = tables_.call_totals[call_rows[row]];
    count(total, call_times[row], times.call_self[row]);
    bool outermost = true;
    for (int32_t around = call.parent; around != kNoRow; around = step.module_calls[around].parent) {
      outermost = outermost && step.module_calls[around].module != call.module;
    }
    total.time += outermost ? call_times[row] : 0;
  }
  if (steps_ == 1) {
    rows_settled_ = rows();
  }
}

std::vector<size_t> Totals::rows_of_ops(const Tables& step, const std::vector<uint32_t>& signatures,
                                        const std::vector<uint32_t>& modules) {
  std::vector<size_t> rows(step.ops.size());
  for (size_t row = 0; row < step.ops.size(); ++row) {
    const Op& op = step.ops[row];
    const int32_t module =
        op.module_call == kNoRow ? kNoRow : static_cast<int32_t>(modules[step.module_calls[op.module_call].module]);
    OpTotal key{};
    key.signature = signatures[op.signature];
    key.module = module;
    key.phase = static_cast<uint8_t>(phase(op));
    key.nested = (op.flags & kNested) != 0 ? 1 : 0;
    key.wrapper = (op.flags & kWrapper) != 0 ? 1 : 0;
    key.stack = step.op_stacks.empty() ? kNoRow : step.op_stacks[row];
    key.range = op.scope == kUserScope ? 1 : 0;
    const bool is_known = key.signature != kNoName && (op.module_call == kNoRow || static_cast<uint32_t>(module) != kNoName);
    rows[row] = is_known ? row_of(key) : kNoRoom;
    losses_.ops += rows[row] == kNoRoom ? 1 : 0;
  }
  return rows;
}

std::vector<size_t> Totals::rows_of_calls(const Tables& step, const std::vector<uint32_t>& modules) {
  std::vector<size_t> rows(step.module_calls.size(), kNoRoom);
  for (size_t row = 0; row < step.module_calls.size(); ++row) {
    const ModuleCall& call = step.module_calls[row];
    CallTotal key{};
    key.module = modules[call.module];
    if (key.module == kNoName) {
      ++losses_.module_calls;
      continue;
    }
    key.phase = static_cast<uint8_t>(phase(call));
    key.stack = step.call_stacks.empty() ? kNoRow : step.call_stacks[row];
    key.caller = call.parent == kNoRow ? kNoRow : static_cast<int32_t>(modules[step.module_calls[call.parent].module]);
    rows[row] = row_of(key);
    losses_.module_calls += rows[row] == kNoRoom ? 1 : 0;
  }
  return rows;
}

std::vector<size_t> Totals::rows_of_kernels(const Tables& step, const std::vector<uint32_t>& strings,
                                            const std::vector<uint32_t>& modules) {
  std::vector<size_t> rows(step.kernels.size(), kNoRoom);
  for (size_t row = 0; row < step.kernels.size(); ++row) {
    const Kernel& kernel = step.kernels[row];
    KernelTotal total{};
    if (strings[kernel.name] == kNoName) {
      ++losses_.kernels;
      continue;
    }
    total.name = strings[kernel.name];
    total.op = kernel.op == kNoRow ? kNoName : strings[step.signatures[step.ops[kernel.op].signature].name];
    total.module =
        kernel.module_call == kNoRow ? kNoRow : static_cast<int32_t>(modules[step.module_calls[kernel.module_call].module]);
    total.device_type = kernel.device_type;
    total.device_index = kernel.device_index;
    total.kind = kernel.kind;
    total.direction = kernel.direction;
    total.phase = kernel.phase;
    total.in_graph = kernel.graph != 0 ? 1 : 0;
    const auto [found, added] = kernel_rows_.try_emplace(key_of(total), tables_.kernel_totals.size());
    if (added && !has_room()) {
      kernel_rows_.erase(found);
      ++losses_.kernels;
      continue;
    }
    if (added) {
      tables_.kernel_totals.push_back(total);
    }
    rows[row] = found->second;
  }
  return rows;
}

uint32_t Totals::add_signature(const Signature& signature, const Tables& step, const std::vector<uint32_t>& strings,
                               const std::vector<uint32_t>& shapes) {
  Signature added = signature;
  added.name = strings[signature.name];
  if (signature.arguments != kNoName) {
    added.arguments = strings[signature.arguments];
    added.results = strings[signature.results];
  }
  std::vector<int64_t> kinds;
  std::vector<Tensor> tensors;
  std::unordered_map<uint64_t, uint64_t> numbers;  // of storages: only which tensors share one still matters, not its address
  const auto read = [&](uint32_t first, uint32_t count) {
    for (uint32_t i = first; i < first + count; ++i) {
      Tensor tensor = step.tensors[step.operands[i]];
      tensor.shape = shapes[tensor.shape];
      tensor.storage = numbers.try_emplace(tensor.storage, numbers.size() + 1).first->second;
      tensors.push_back(tensor);
    }
  };
  read(signature.inputs, signature.n_inputs);
  read(signature.outputs, signature.n_outputs);
  add_kinds(tensors.data(), signature.n_inputs, signature.n_outputs, kinds);
  const bool names_known = added.name != kNoName && (signature.arguments == kNoName || added.arguments != kNoName);
  const bool shapes_known =
      std::none_of(tensors.begin(), tensors.end(), [](const Tensor& each) { return each.shape == kNoName; });
  if (!names_known || !shapes_known) {
    return kNoName;
  }
  const uint32_t id = has_room() ? known_.id(added, kinds) : known_.find(added, kinds);
  if (id == tables_.signatures.size()) {
    added.inputs = static_cast<uint32_t>(tables_.operands.size());
    added.outputs = added.inputs + added.n_inputs;
    for (const Tensor& tensor : tensors) {
      tables_.tensors.push_back(tensor);
      tables_.operands.push_back(static_cast<int32_t>(tables_.tensors.size() - 1));
    }
    tables_.signatures.push_back(added);
  }
  return id;
}

size_t Totals::row_of(const OpTotal& key) {
  const uint64_t word = uint64_t{key.signature} << 32 | static_cast<uint64_t>(key.module + 1) << 8 |
                        static_cast<uint64_t>(key.phase) << 4 | static_cast<uint64_t>(key.nested) << 1 | key.wrapper;
  return row_with_stack(op_groups_, op_rows_, word, key, tables_.op_totals);
}

size_t Totals::row_of(const CallTotal& key) {
  return row_with_stack(call_groups_, call_rows_, uint64_t{key.module} << 8 | key.phase, key, tables_.call_totals);
}

// One whose stack has no room goes to the row without a stack, which is counted.
template <typename Total>
size_t Totals::row_with_stack(FlatMap<Group>& groups, FlatMap<size_t>& rows, uint64_t word, Total key,
                              std::vector<Total>& table) {
  const auto [found, is_new] = groups.try_emplace(word, {static_cast<uint32_t>(groups.size()), 0});
  Group& group = *found;
  const auto key_of = [&](int32_t stack) { return uint64_t{group.number} << 32 | static_cast<uint32_t>(stack + 1); };
  if (const size_t* const known = rows.find(key_of(key.stack))) {
    return *known;
  }
  if (key.stack != kNoRow && (group.stacks == kMostStacks || !has_room())) {
    key.stack = kNoRow;
    ++losses_.stacks;
    if (const size_t* const known = rows.find(key_of(kNoRow))) {
      return *known;
    }
  }
  if (!has_room()) {
    if (is_new) {
      groups.erase(word);
    }
    return kNoRoom;
  }
  group.stacks += key.stack != kNoRow ? 1 : 0;
  rows.try_emplace(key_of(key.stack), table.size());
  table.push_back(key);
  return table.size() - 1;
}

Tables Totals::copy(const MergedStacks& stacks) const {
  Tables tables = tables_;
  Interner interner = interner_;
  interner.set_room(true);
  stacks.copy_into(tables, interner);
  interner.copy_into(tables);
  return tables;
}

int64_t Totals::bytes() const {
  constexpr size_t kNode = 48;  // of a hash table
  const size_t rows = tables_.op_totals.size() * (sizeof(OpTotal) + 2 * kNode) +
                      tables_.call_totals.size() * (sizeof(CallTotal) + 2 * kNode) +
                      tables_.kernel_totals.size() * (sizeof(KernelTotal) + 2 * kNode);
  const size_t named = tables_.signatures.size() * (sizeof(Signature) + 2 * kNode) +
                       tables_.tensors.size() * (sizeof(Tensor) + 3 * sizeof(int64_t)) + interner_.strings() * 2 * kNode +
                       interner_.characters() + interner_.shapes() * 2 * kNode + interner_.modules() * 2 * kNode;
  return static_cast<int64_t>(rows + named);
}

}  // namespace torchprof
