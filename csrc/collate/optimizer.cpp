#include "collate/optimizer.h"

#include <algorithm>
#include <unordered_map>
#include <utility>

#include "collate/attribution.h"

namespace torchprof {
namespace {

// Nothing says to which parameter a tensor of the optimizer's state belongs, so it is learned: what an op reads beside a parameter or
// its gradient belongs to that parameter, and so does what it returns. Only gradients are remembered from one step to the next.
// Addresses are reused, and the result for a step must not depend on what was recorded before it.
class OptimizerAttribution {
 public:
  OptimizerAttribution(Tables& tables, const std::vector<Held>& held) : tables_(tables) {
    std::unordered_map<uint64_t, int32_t> modules;
    calls_.resize(tables.modules.size());
    for (size_t row = 0; row < tables.modules.size(); ++row) {
      modules[tables.modules[row].address] = static_cast<int32_t>(row);
    }
    for (size_t row = 0; row < tables.module_calls.size(); ++row) {
      calls_[tables.module_calls[row].module].push_back(static_cast<int32_t>(row));
    }
    for (const Held& item : held) {
      const auto module = modules.find(item.module);
      if ((item.uses & kParameter) != 0 && module != modules.end()) {
        parameters_.try_emplace(item.address, module->second);
      }
    }
  }

  // rows: of the ops that accumulate gradients and of those of optimizers, in order of their start.
  void run(const std::vector<int32_t>& rows) {
    for (const int32_t row : rows) {
      const Op& op = tables_.ops[row];
      if (phase(op) != Phase::kOptimizer) {
        learn_gradients(op);
        waiting_.clear();  // in a closure, backward runs between the updates
      } else if (op.scope != kUserScope) {
        follow(row);
      } else if (op.parent == kNoRow || phase(tables_.ops[op.parent]) != Phase::kOptimizer) {
        learned_.clear();
        waiting_.clear();
      }
    }
  }

 private:
  void learn_gradients(const Op& op) {
    for (uint32_t i = 0; i < op.n_inputs && op.module_call != kNoRow; ++i) {
      gradients_[storage(op.inputs + i)] = static_cast<int32_t>(tables_.module_calls[op.module_call].module);
    }
  }

  // An op whose inputs are not known prepares what comes next, and gets the module of the next op that has one: it scales state from
  // before the recording, or reads only numbers, such as the count of steps.
  void follow(int32_t row) {
    const Op& op = tables_.ops[row];
    const auto [module, tensors] = owner_of(op);
    if (module != kNoRow) {
      for (const int32_t before : waiting_) {
        assign(before, module);
      }
      waiting_.clear();
      assign(row, module);
    } else if (tensors > 1) {
      waiting_.clear();  // it reads tensors of several modules
    } else {
      waiting_.push_back(row);
    }
  }

  void assign(int32_t row, int32_t module) {
    Op& op = tables_.ops[row];
    learn(op.inputs, op.n_inputs, module);
    learn(op.outputs, op.n_outputs, module);
    if (const int32_t call = latest_call(module, op.start); call != kNoRow) {
      op.module_call = call;
      op.flags |= kAttributed;
    }
  }

  // The module, if there is one, and how many inputs are more than a number. Parameters come first, as they are certain; what was
  // learned is not.
  std::pair<int32_t, size_t> owner_of(const Op& op) const {
    size_t tensors = 0;
    for (uint32_t i = 0; i < op.n_inputs; ++i) {
      tensors += is_number(op.inputs + i) ? 0 : 1;
    }
    for (const auto* known : {&parameters_, &learned_, &gradients_}) {
      int32_t module = kNoRow;
      for (uint32_t i = 0; i < op.n_inputs; ++i) {
        const auto found = known->find(storage(op.inputs + i));
        if (found == known->end() || (known != &parameters_ && is_number(op.inputs + i))) {
          continue;
        }
        if (module != kNoRow && found->second != module) {
          return {kNoRow, tensors};
        }
        module = found->second;
      }
      if (module != kNoRow) {
        return {module, tensors};
      }
    }
    return {kNoRow, tensors};
  }

  void learn(uint32_t first, uint32_t count, int32_t module) {
    for (uint32_t i = first; i < first + count; ++i) {
      if (!is_number(i)) {  // all parameters share a learning rate
        learned_[storage(i)] = module;
      }
    }
  }

  int32_t latest_call(int32_t module, int64_t time) const {
    int32_t latest = kNoRow;
    for (auto call = calls_[module].rbegin(); call != calls_[module].rend() && latest == kNoRow; ++call) {
      if (tables_.module_calls[*call].start <= time) {
        latest = *call;
      }
    }
    return latest;
  }

  uint64_t storage(uint32_t operand) const { return tables_.tensors[tables_.operands[operand]].storage; }

  bool is_number(uint32_t operand) const { return tables_.tensors[tables_.operands[operand]].storage_bytes <= kNumber; }

  static constexpr int64_t kNumber = 8;

  Tables& tables_;
  std::vector<std::vector<int32_t>> calls_;           // by module
  std::unordered_map<uint64_t, int32_t> parameters_;  // storage -> module
  std::unordered_map<uint64_t, int32_t> gradients_;
  std::unordered_map<uint64_t, int32_t> learned_;
  std::vector<int32_t> waiting_;  // ops since the latest one that had a module
};

// Gradients are accumulated on one thread and used on another, so these are sorted by their start.
std::vector<int32_t> rows_of_interest(const Tables& tables) {
  const std::vector<Role> role = roles(tables);
  const auto accumulates = [&](int32_t row) { return row != kNoRow && role[tables.ops[row].signature] == Role::kAccumulation; };
  std::vector<int32_t> rows;
  for (size_t row = 0; row < tables.ops.size(); ++row) {
    const Op& op = tables.ops[row];
    if (phase(op) == Phase::kOptimizer || accumulates(static_cast<int32_t>(row)) || accumulates(op.parent)) {
      rows.push_back(static_cast<int32_t>(row));
    }
  }
  std::stable_sort(rows.begin(), rows.end(), [&](int32_t a, int32_t b) { return tables.ops[a].start < tables.ops[b].start; });
  return rows;
}

}  // namespace

void attribute_optimizer(Tables& tables, const std::vector<Held>& held) {
  if (const std::vector<int32_t> rows = rows_of_interest(tables); !rows.empty()) {
    OptimizerAttribution(tables, held).run(rows);
  }
}

}  // namespace torchprof
