#include "collate/attribution.h"

#include <algorithm>
#include <unordered_map>
#include <utility>

#include "collate/optimizer.h"

namespace torchprof {
namespace {

Role role(std::string_view name) {
  const auto starts = [&](std::string_view prefix) { return name.substr(0, prefix.size()) == prefix; };
  if (starts("autograd::engine::evaluate_function")) {
    return Role::kEngine;
  }
  if (name == "torch::autograd::AccumulateGrad") {
    return Role::kAccumulation;
  }
  return starts("Optimizer.step#") || starts("Optimizer.zero_grad#") ? Role::kOptimizer : Role::kPlain;
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

class Attribution {
 public:
  explicit Attribution(Tables& tables) : tables_(tables), ops_(tables.ops), roles_(roles(tables)) {
    ran_in_.reserve(ops_.size());
    for (const Op& op : ops_) {
      ran_in_.push_back(op.module_call);
    }
  }

  std::vector<int32_t> run() {
    find_phases();
    attribute_backward();
    mark_forward_outside_modules();
    for (ModuleCall& call : tables_.module_calls) {
      if (call.op != kNoRow && is_in_backward(ops_[call.op])) {
        call.flags |= kRecomputed;
      }
    }
    return std::move(ran_in_);
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

  Phase phase_of(const Op& op, int32_t row, const std::vector<bool>& differentiates) const {
    if (role_of(op) == Role::kEngine) {
      return Phase::kBackward;
    }
    if (role_of(op) == Role::kOptimizer && op.scope == kUserScope) {
      return Phase::kOptimizer;
    }
    const int32_t call = ran_in_[row];
    if (op.parent != kNoRow) {
      const Op& parent = ops_[op.parent];
      if (phase(parent) == Phase::kOptimizer) {
        return Phase::kOptimizer;
      }
      if (is_in_backward(parent)) {
        const bool called_here = call != kNoRow && call != ran_in_[op.parent];
        const bool builds_graph_again =
            parent.scope == kBackwardScope && op.sequence_nr >= 0 && op.forward_thread == 0 && differentiates[op.parent];
        return called_here || builds_graph_again ? Phase::kRecomputation : phase(parent);
      }
    }
    if (op.scope == kBackwardScope) {
      return Phase::kBackward;
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
  // the node keep that call.
  void attribute_backward() {
    const ForwardOps forward(tables_);
    creators_.assign(ops_.size(), false);
    std::unordered_map<uint64_t, int32_t> writers;  // storage -> the call that the latest op to return it is attributed to
    for (size_t row = 0; row < ops_.size(); ++row) {
      Op& op = ops_[row];
      if (op.forward_thread != 0 && op.sequence_nr >= 0) {
        if (const int32_t creator = forward.creator(op.forward_thread, op.sequence_nr); creator != kNoRow) {
          creators_[creator] = true;
          attribute_to(ops_[creator].module_call, op);
        }
      } else if (role_of(op) == Role::kAccumulation && op.n_inputs != 0) {
        const auto found = writers.find(storage(op.inputs));
        if (found != writers.end()) {
          attribute_to(found->second, op);
        }
      }
      if ((op.flags & kAttributed) == 0 && op.parent != kNoRow && (ops_[op.parent].flags & kAttributed) != 0 &&
          ran_in_[op.parent] == op.module_call) {
        op.module_call = ops_[op.parent].module_call;
        op.flags |= kAttributed;
      }
      if ((op.flags & kAttributed) != 0) {
        for (uint32_t i = 0; i < op.n_outputs; ++i) {
          writers[storage(op.outputs + i)] = op.module_call;
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

  uint64_t storage(uint32_t operand) const { return tables_.tensors[tables_.operands[operand]].storage; }

  // A loss is computed outside any module, but it is differentiated, so it is forward. So are the ops around it and inside those.
  void mark_forward_outside_modules() {
    std::vector<bool> forward(ops_.size());
    for (size_t row = 0; row < ops_.size(); ++row) {
      if (!creators_[row] || phase(ops_[row]) != Phase::kOther) {
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
      if (forward[row] && phase(op) == Phase::kOther) {
        set_phase(op, Phase::kForward);
      }
    }
  }

  Tables& tables_;
  std::vector<Op>& ops_;
  const std::vector<Role> roles_;
  std::vector<int32_t> ran_in_;  // the call each op ran in, which may not be the call that it is attributed to
  std::vector<bool> creators_;   // forward ops whose autograd node was recorded
};

}  // namespace

std::vector<Role> roles(const Tables& tables) {
  std::vector<Role> found;
  for (const std::string& name : tables.strings) {
    found.push_back(role(name));
  }
  return found;
}

std::vector<int32_t> attribute(Tables& tables, const std::vector<Held>& held) {
  std::vector<int32_t> ran_in = Attribution(tables).run();
  attribute_optimizer(tables, held);
  return ran_in;
}

}  // namespace torchprof
