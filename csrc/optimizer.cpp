#include "optimizer.h"

#include <algorithm>
#include <unordered_map>

#include "attribute.h"

namespace torchprof {
namespace {

// The optimizer's state and temporaries are known by the company they keep: what an op reads beside a parameter or its
// gradient is the parameter's as well, and so is what it returns.
class OptimizerJoin {
 public:
  OptimizerJoin(Tables& tables, const std::vector<Held>& held) : tables_(tables), roles_(roles(tables)) {
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

  void run() {
    std::vector<int32_t> rows;
    for (size_t row = 0; row < tables_.ops.size(); ++row) {
      const Op& op = tables_.ops[row];
      if (phase(op) == Phase::kOptimizer || roles_[op.signature] == Role::kAccumulation) {
        rows.push_back(static_cast<int32_t>(row));
      }
    }
    // Gradients are accumulated on one thread and used on another.
    std::stable_sort(rows.begin(), rows.end(), [&](int32_t a, int32_t b) { return tables_.ops[a].start < tables_.ops[b].start; });
    for (const int32_t row : rows) {
      Op& op = tables_.ops[row];
      if (phase(op) != Phase::kOptimizer) {
        if (op.module_call != kNoRow && op.n_inputs != 0) {
          learned_[storage(op.inputs)] = static_cast<int32_t>(tables_.module_calls[op.module_call].module);
        }
      } else if (op.scope != kUserScope) {
        follow(op);
      }
    }
  }

 private:
  void follow(Op& op) {
    int32_t module = owner_of(op);
    if (module == kNoRow && op.n_inputs <= 1) {
      module = latest_;  // a step on the way, such as scaling the state: the ops around it say whose
    }
    if (module == kNoRow) {
      return;
    }
    latest_ = module;
    learn(op.inputs, op.n_inputs, module);
    learn(op.outputs, op.n_outputs, module);
    if (const int32_t call = latest_call(module, op.start); call != kNoRow) {
      op.module_call = call;
      op.flags |= kJoined;
    }
  }

  // A parameter is certain; what was learned is not, as addresses are used again.
  int32_t owner_of(const Op& op) const {
    for (const auto* known : {&parameters_, &learned_}) {
      int32_t module = kNoRow;
      for (uint32_t i = 0; i < op.n_inputs; ++i) {
        const auto found = known->find(storage(op.inputs + i));
        if (found == known->end()) {
          continue;
        }
        if (module != kNoRow && found->second != module) {
          return kNoRow;
        }
        module = found->second;
      }
      if (module != kNoRow) {
        return module;
      }
    }
    return kNoRow;
  }

  void learn(uint32_t first, uint32_t count, int32_t module) {
    for (uint32_t i = first; i < first + count; ++i) {
      if (tables_.tensors[tables_.operands[i]].storage_bytes > kScalar) {  // a learning rate is everybody's
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

  static constexpr int64_t kScalar = 8;

  Tables& tables_;
  const std::vector<Role> roles_;
  std::vector<std::vector<int32_t>> calls_;           // by module
  std::unordered_map<uint64_t, int32_t> parameters_;  // storage -> module
  std::unordered_map<uint64_t, int32_t> learned_;
  int32_t latest_ = kNoRow;
};

}  // namespace

void join_optimizer(Tables& tables, const std::vector<Held>& held) { OptimizerJoin(tables, held).run(); }

}  // namespace torchprof
