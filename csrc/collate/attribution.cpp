#include "collate/attribution.h"

#include <algorithm>
#include <unordered_map>
#include <utility>

#include "trace/flat_map.h"
#include "trace/range_names.h"

namespace torchprof {
namespace {

Role role(std::string_view name) {
  const auto starts = [&](std::string_view prefix) { return name.substr(0, prefix.size()) == prefix; };
  if (starts("autograd::engine::evaluate_function")) {
    return Role::kEngine;
  }
  if (name == kBackwardRange) {
    return Role::kRun;
  }
  if (name == "torch::autograd::AccumulateGrad") {
    return Role::kAccumulation;
  }
  if (starts("Optimizer.step#") || starts("Optimizer.zero_grad#")) {
    return Role::kOptimizer;
  }
  // The first two are ranges of PyTorch, around next(); then that of FunctionRanges, and of torchprof.data.
  const bool loads =
      starts("enumerate(DataLoader)") || starts("enumerate(DataPipe)") || name == kLoaderRange || starts("torchprof.data(");
  return loads ? Role::kLoader : Role::kPlain;
}

void set_phase(Op& op, Phase phase) {
  op.flags = static_cast<uint8_t>((op.flags & ((1 << kPhaseShift) - 1)) | static_cast<uint8_t>(phase) << kPhaseShift);
}
bool is_in_backward(const Op& op) { return phase(op) == Phase::kBackward || phase(op) == Phase::kRecomputation; }

// Which forward op created the autograd node with a given number on a given thread.
//
// An op carries the number that its node gets if it creates one. Ops that create no node, and ops inside the one that does, carry it
// too. The next number comes after the node, so its creator is the last op that began with this number.
class ForwardOps {
 public:
  explicit ForwardOps(const Tables& tables) {
    for (size_t row = 0; row < tables.ops.size(); ++row) {
      const Op& op = tables.ops[row];
      if (op.sequence_nr >= 0 && op.forward_thread == 0) {
        by_thread_[tables.threads[op.thread].torch_id].push_back({op.sequence_nr, static_cast<int32_t>(row)});
      }
    }
    for (auto& [thread, numbered] : by_thread_) {
      // They are in order, except where a graph is built while another is differentiated.
      if (!std::is_sorted(numbered.begin(), numbered.end())) {
        std::sort(numbered.begin(), numbered.end());
      }
    }
  }

  int32_t creator(uint64_t thread, int64_t sequence_nr) const {
    const auto found = by_thread_.find(thread);
    if (found == by_thread_.end()) {
      return kNoRow;
    }
    const auto& numbered = found->second;
    const auto after = std::upper_bound(numbered.begin(), numbered.end(), std::pair{sequence_nr, INT32_MAX});
    return after != numbered.begin() && std::prev(after)->first == sequence_nr ? std::prev(after)->second : kNoRow;
  }

 private:
  std::unordered_map<uint64_t, std::vector<std::pair<int64_t, int32_t>>> by_thread_;
};

struct Writer {
  int32_t call;  // that it is attributed to
  int32_t op;
};

class Attribution {
 public:
  explicit Attribution(Tables& tables) : tables_(tables), ops_(tables.ops), roles_(roles(tables)), stacks_(tables.op_stacks) {
    ran_in_.reserve(ops_.size());
    for (const Op& op : ops_) {
      ran_in_.push_back(op.module_call);
    }
  }

  // The calls that ops ran in, and their stacks: see Attributed.
  std::pair<std::vector<int32_t>, std::vector<int32_t>> run() {
    find_phases();
    attribute_backward();
    mark_forward_outside_modules();
    for (ModuleCall& call : tables_.module_calls) {
      if (call.op != kNoRow && is_in_backward(ops_[call.op])) {
        call.flags |= kRecomputed;
      } else if (call.op != kNoRow && phase(ops_[call.op]) == Phase::kData) {
        call.flags |= kLoadedData;
      }
    }
    return {std::move(ran_in_), std::move(stacks_)};
  }

 private:
  Role role_of(const Op& op) const { return roles_[op.signature]; }

  // A parent has a lower row than the ops inside it, so one pass over all rows sees it first.
  void find_phases() {
    const std::vector<bool> differentiates = nodes_that_run_without_grad();
    for (size_t row = 0; row < ops_.size(); ++row) {
      Op& op = ops_[row];
      set_phase(op, phase_of(op, static_cast<int32_t>(row), differentiates));
    }
  }

  // The innermost of what began around it counts. So a step of an optimizer that is given a closure has forward and backward inside,
  // and a backward pass has the optimizer that its hooks run.
  Phase phase_of(const Op& op, int32_t row, const std::vector<bool>& differentiates) const {
    const Op* const parent = op.parent != kNoRow ? &ops_[op.parent] : nullptr;
    if ((parent != nullptr && phase(*parent) == Phase::kData) || (role_of(op) == Role::kLoader && op.scope == kUserScope)) {
      return Phase::kData;
    }
    if (role_of(op) == Role::kEngine || (role_of(op) == Role::kRun && op.scope == kUserScope)) {
      return Phase::kBackward;
    }
    if (role_of(op) == Role::kOptimizer && op.scope == kUserScope) {
      return Phase::kOptimizer;
    }
    const int32_t call = ran_in_[row];
    const bool called_here = call != kNoRow && (parent == nullptr || call != ran_in_[op.parent]);
    if (parent != nullptr && is_in_backward(*parent)) {
      const bool builds_graph_again =
          parent->scope == kBackwardScope && op.sequence_nr >= 0 && op.forward_thread == 0 && differentiates[op.parent];
      return called_here || builds_graph_again ? Phase::kRecomputation : phase(*parent);
    }
    if (op.scope == kBackwardScope) {
      return Phase::kBackward;
    }
    if (parent != nullptr && phase(*parent) == Phase::kOptimizer && !called_here) {
      return Phase::kOptimizer;
    }
    return call != kNoRow ? Phase::kForward : Phase::kOther;
  }

  // Autograd nodes that run an op which builds no graph. If such a node also runs an op that builds one, that op is recomputation.
  // With create_graph=True all ops of a node build a graph.
  std::vector<bool> nodes_that_run_without_grad() const {
    std::vector<bool> found(ops_.size());
    for (const Op& op : ops_) {
      if (op.parent != kNoRow && op.sequence_nr < 0 && ops_[op.parent].scope == kBackwardScope) {
        found[op.parent] = true;
      }
    }
    return found;
  }

  // Attributes every op of a backward pass to the module call of the forward op that it differentiates. The autograd node finds that
  // op by its number. The ops inside the node and the engine's op around it follow the node. Ops of a module that was called inside
  // the node keep that call. Their stacks follow likewise: what Python runs inside the node keeps its own.
  void attribute_backward() {
    const ForwardOps forward(tables_);
    nodes_.assign(ops_.size(), kNoRow);
    FlatMap<Writer> writers;  // storage -> the latest op to return it
    for (size_t row = 0; row < ops_.size(); ++row) {
      Op& op = ops_[row];
      if (op.forward_thread != 0 && op.sequence_nr >= 0) {
        if (const int32_t creator = forward.creator(op.forward_thread, op.sequence_nr); creator != kNoRow) {
          nodes_[creator] = static_cast<int32_t>(row);
          attribute_to(ops_[creator].module_call, op);
          take_stack(row, stack_of(creator));
        }
      } else if (role_of(op) == Role::kAccumulation && op.n_inputs != 0) {
        if (const Writer* const writer = writers.find(storage(op.inputs))) {
          attribute_to(writer->call, op);
          take_stack(row, stack_of(writer->op));
        }
      }
      if ((op.flags & kAttributed) == 0 && op.parent != kNoRow && (ops_[op.parent].flags & kAttributed) != 0 &&
          ran_in_[op.parent] == op.module_call) {
        op.module_call = ops_[op.parent].module_call;
        op.flags |= kAttributed;
        if (!stacks_.empty() && tables_.op_stacks[row] == tables_.op_stacks[op.parent]) {
          stacks_[row] = stacks_[op.parent];
        }
      }
      if ((op.flags & kAttributed) != 0) {
        for (uint32_t i = 0; i < op.n_outputs; ++i) {
          writers[storage(op.outputs + i)] = {op.module_call, static_cast<int32_t>(row)};
        }
      }
    }
  }

  void attribute_to(int32_t call, Op& op) {
    op.module_call = call;
    op.flags |= kAttributed;
    if (op.parent != kNoRow && role_of(ops_[op.parent]) == Role::kEngine) {
      ops_[op.parent].module_call = call;
      ops_[op.parent].flags |= kAttributed;
    }
  }

  int32_t stack_of(int32_t op) const { return stacks_.empty() ? kNoRow : stacks_[op]; }

  // An op of backward, and the engine's around it, has this stack if it is known.
  void take_stack(size_t row, int32_t stack) {
    if (stack != kNoRow) {
      stacks_[row] = stack;
      if (const int32_t around = ops_[row].parent; around != kNoRow && role_of(ops_[around]) == Role::kEngine) {
        stacks_[around] = stack;
      }
    }
  }

  uint64_t storage(uint32_t operand) const { return tables_.tensors[tables_.operands[operand]].storage; }

  // A loss is computed outside any module, but it is differentiated, so it is forward. So are the ops around it and inside those.
  void mark_forward_outside_modules() {
    std::vector<bool> forward(ops_.size());
    for (size_t row = 0; row < ops_.size(); ++row) {
      if (nodes_[row] == kNoRow || !(phase(ops_[row]) == Phase::kOther || is_of_closure(static_cast<int32_t>(row)))) {
        continue;
      }
      auto outermost = static_cast<int32_t>(row);
      while (ops_[outermost].parent != kNoRow && ops_[ops_[outermost].parent].scope != kUserScope) {
        outermost = ops_[outermost].parent;
      }
      forward[outermost] = true;
    }
    for (size_t row = 0; row < ops_.size(); ++row) {
      Op& op = ops_[row];
      forward[row] = forward[row] || (op.parent != kNoRow && forward[op.parent]);
      if (forward[row] && (phase(op) == Phase::kOther || phase(op) == Phase::kOptimizer)) {
        set_phase(op, Phase::kForward);
      }
    }
  }

  // Whether an op in the step of an optimizer is one of its closure: what that computes is differentiated before the step ends. What a
  // differentiable optimizer computes is differentiated later.
  bool is_of_closure(int32_t row) const {
    if (phase(ops_[row]) != Phase::kOptimizer) {
      return false;
    }
    int32_t range = row;
    while (range != kNoRow && role_of(ops_[range]) != Role::kOptimizer) {
      range = ops_[range].parent;
    }
    return range != kNoRow && (ops_[range].end == kNever || ops_[nodes_[row]].start < ops_[range].end);
  }

  Tables& tables_;
  std::vector<Op>& ops_;
  const std::vector<Role> roles_;
  std::vector<int32_t> ran_in_;  // the call each op ran in, which may not be the call that it is attributed to
  std::vector<int32_t> nodes_;   // by forward op: the op that ran its autograd node last, if one was recorded
  std::vector<int32_t> stacks_;  // see Attributed; empty where there are none
};

}  // namespace

std::vector<Role> roles(const Tables& tables) {
  std::vector<Role> found;
  for (const std::string& name : tables.strings) {
    found.push_back(role(name));
  }
  return found;
}

Attributed attribute(Tables& tables, const std::vector<MemoryEvent>* events, const std::vector<Held>& held,
                     ModelTensors& tensors) {
  auto [ran_in, stacks] = Attribution(tables).run();
  return {std::move(ran_in), attribute_optimizer(tables, events, held, tensors), std::move(stacks)};
}

}  // namespace torchprof
