#include "collate/optimizer.h"

#include <algorithm>
#include <optional>
#include <unordered_map>
#include <utility>

#include "collate/attribution.h"
#include "collate/update_graph.h"

namespace torchprof {
namespace {

// Only gradients are remembered from one step to the next. Addresses are reused, and the result for a step must not depend on what was
// recorded before it.
class OptimizerAttribution {
 public:
  OptimizerAttribution(Tables& tables, const std::vector<Held>& held) : tables_(tables) {
    std::unordered_map<uint64_t, int32_t> modules;
    for (const Module& module : tables.modules) {
      modules.try_emplace(module.address, static_cast<int32_t>(modules_.size()));
      modules_.push_back(module.address);
    }
    for (const Held& item : held) {
      if ((item.uses & kParameter) != 0 && item.bytes != 0) {
        const auto [module, is_new] = modules.try_emplace(item.module, static_cast<int32_t>(modules_.size()));
        if (is_new) {
          modules_.push_back(item.module);  // it was not called
        }
        if (known_.parameters.try_emplace(item.address, static_cast<int32_t>(known_.modules.size())).second) {
          known_.modules.push_back(module->second);
        }
      }
    }
    known_.first_gradient = known_.modules.size();
    calls_.resize(modules_.size());
    for (size_t row = 0; row < tables.module_calls.size(); ++row) {
      calls_[tables.module_calls[row].module].push_back(static_cast<int32_t>(row));
    }
  }

  // rows: of the ops that accumulate gradients and of those of optimizers, in order of their start.
  StateOwners run(const std::vector<int32_t>& rows) {
    for (const int32_t row : rows) {
      const Op& op = tables_.ops[row];
      const bool is_inside = op.parent != kNoRow && phase(tables_.ops[op.parent]) == Phase::kOptimizer;
      if (phase(op) != Phase::kOptimizer) {
        learn_gradients(op);
      } else if (op.scope == kUserScope) {
        if (!is_inside) {
          finish_step();
          step_.emplace(tables_, known_);
        }
      } else if (is_inside && tables_.ops[op.parent].scope != kUserScope) {
        nested_.push_back(row);
      } else if (step_.has_value()) {
        step_->add(row);
      }
    }
    finish_step();
    return std::move(owners_);
  }

 private:
  void learn_gradients(const Op& op) {
    if (op.module_call == kNoRow) {
      return;
    }
    const auto module = static_cast<int32_t>(tables_.module_calls[op.module_call].module);
    const auto learn = [&](uint32_t first, uint32_t count) {
      for (uint32_t i = first; i < first + count; ++i) {
        const uint64_t storage = tables_.tensors[tables_.operands[i]].storage;
        known_.gradients[storage] = static_cast<int32_t>(known_.modules.size());
        known_.modules.push_back(module);
        if (step_.has_value()) {
          step_->forget(storage);
        }
      }
    };
    learn(op.inputs, op.n_inputs);
    learn(op.outputs, op.n_outputs);
  }

  // Ops that read only numbers, such as the count of steps, prepare what comes next and get the module of the next op that has one.
  void finish_step() {
    if (!step_.has_value()) {
      return;
    }
    step_->find_owners();
    std::vector<int32_t> numbers;
    for (size_t i = 0; i < step_->rows().size(); ++i) {
      const int32_t module = step_->module_of(i);
      if (module >= 0) {
        numbers.push_back(step_->rows()[i]);
        for (const int32_t row : numbers) {
          assign(row, module);
        }
      }
      if (module == kUnknownOwner && step_->reads_only_numbers(i)) {
        numbers.push_back(step_->rows()[i]);
      } else {
        numbers.clear();
      }
    }
    for (const int32_t row : nested_) {
      Op& op = tables_.ops[row];
      if ((tables_.ops[op.parent].flags & kAttributed) != 0) {
        op.module_call = tables_.ops[op.parent].module_call;
        op.flags |= kAttributed;
      }
    }
    nested_.clear();
    step_->for_each_state([&](uint32_t operand, int32_t module) { owners_[operand] = modules_[module]; });
    step_.reset();
  }

  void assign(int32_t row, int32_t module) {
    Op& op = tables_.ops[row];
    if (const int32_t call = latest_call(module, op.start); call != kNoRow) {
      op.module_call = call;
      op.flags |= kAttributed;
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

  Tables& tables_;
  std::vector<uint64_t> modules_;            // their addresses: those of the trace, then others that hold parameters
  std::vector<std::vector<int32_t>> calls_;  // by module
  KnownOwners known_;
  std::optional<UpdateGraph> step_;
  std::vector<int32_t> nested_;  // ops of the step that are inside another one
  StateOwners owners_;
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

StateOwners attribute_optimizer(Tables& tables, const std::vector<Held>& held) {
  const std::vector<int32_t> rows = rows_of_interest(tables);
  return rows.empty() ? StateOwners{} : OptimizerAttribution(tables, held).run(rows);
}

}  // namespace torchprof
