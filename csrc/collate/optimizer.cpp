#include "collate/optimizer.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "collate/attribution.h"
#include "collate/block_key.h"
#include "collate/update_graph.h"

namespace torchprof {
namespace {

constexpr uint64_t kShared = 0;

class OptimizerAttribution {
 public:
  OptimizerAttribution(Tables& tables, const std::vector<MemoryEvent>* events, const std::vector<Held>& held,
                       ModelTensors& tensors)
      : tables_(tables), events_(events), tensors_(tensors) {
    FlatMap<int32_t> modules;
    const auto row_of = [&](uint64_t module) {
      const auto [row, is_new] = modules.try_emplace(module, static_cast<int32_t>(modules_.size()));
      if (is_new) {
        modules_.push_back(module);
      }
      return *row;
    };
    for (const Module& module : tables.modules) {
      rows_.push_back(row_of(module.address));
    }
    held_.reserve(tensors.size());
    tensors.for_each([&](uint64_t key, const ModelTensor& tensor) {
      held_[key] = {tensor.module == kShared ? kNoOwner : row_of(tensor.module), tensor.is_parameter};
    });
    held_by_model(true, held).for_each([&](uint64_t key, const ModelTensor& tensor) {
      if (tensor.is_parameter && tensor.module != kShared) {
        made_.try_emplace(key, Made{row_of(tensor.module), SIZE_MAX});
      }
    });
    for (size_t at = 0; events != nullptr && made_.size() != 0 && at < events->size(); ++at) {
      const MemoryEvent& event = (*events)[at];
      if (Made* const made = made_.find(block_key(event.address, event.device_type)); made != nullptr && event.bytes > 0) {
        made->event = at;
      }
    }
    calls_.resize(modules_.size());
    for (size_t row = 0; row < tables.module_calls.size(); ++row) {
      const ModuleCall& call = tables.module_calls[row];
      calls_[rows_[call.module]].emplace_back(call.start, static_cast<int32_t>(row));
    }
    for (auto& calls : calls_) {
      std::sort(calls.begin(), calls.end());
    }
  }

  // rows: of the ops that accumulate gradients and of those of optimizers.
  StateOwners run(const std::vector<int32_t>& rows) {
    std::vector<Moment> moments;
    moments.reserve(2 * rows.size());
    for (const int32_t row : rows) {
      moments.push_back({tables_.ops[row].start, row, false});
      if (tables_.ops[row].end != kNever) {
        moments.push_back({tables_.ops[row].end, row, true});
      }
    }
    sort_by_time(moments);
    begin_window();
    for (const Moment& moment : moments) {
      while (moment.time > window_end_) {
        finish_window();
        begin_window();
      }
      follow_memory(moment);
      follow(moment);
    }
    finish_window();
    follow_memory({INT64_MAX, kNoRow, false});
    tensors_ = {};
    tensors_.reserve(held_.size());
    held_.for_each([&](uint64_t key, const HeldTensor& held) {
      tensors_[key] = {held.module == kNoOwner ? kShared : modules_[held.module], held.is_parameter};
    });
    return std::move(owners_);
  }

 private:
  struct Moment {
    int64_t time;
    int32_t row;
    bool is_end;
  };

  // An end has at most the moments inside its op to pass, so moving it takes less than sorting all; but not where threads meet.
  static void sort_by_time(std::vector<Moment>& moments) {
    const auto earlier = [](const Moment& a, const Moment& b) { return a.time < b.time; };
    size_t moves = 0;
    for (size_t at = 1; at < moments.size() && moves <= 16 * moments.size(); ++at) {
      const Moment moment = moments[at];
      size_t to = at;
      for (; to > 0 && earlier(moment, moments[to - 1]); --to, ++moves) {
        moments[to] = moments[to - 1];
      }
      moments[to] = moment;
    }
    if (moves > 16 * moments.size()) {
      std::stable_sort(moments.begin(), moments.end(), earlier);
    }
  }

  // A window ends with a step of the loop.
  void begin_window() {
    window_start_ = window_end_;
    window_end_ = next_step_ < tables_.steps.size() ? tables_.steps[next_step_++].end : INT64_MAX;
    graph_.emplace(tables_, held_, events_ != nullptr);
  }

  void follow_memory(const Moment& moment) {
    for (; events_ != nullptr && next_event_ < events_->size(); ++next_event_) {
      const MemoryEvent& event = (*events_)[next_event_];
      if (moment.is_end ? event.time >= moment.time : event.time > moment.time) {
        break;
      }
      const uint64_t key = block_key(event.address, event.device_type);
      graph_->forget(key);
      if (const Made* const made = made_.find(key); made != nullptr && made->event == next_event_) {
        held_[key] = {made->module, true};
      }
    }
  }

  void follow(const Moment& moment) {
    const Op& op = tables_.ops[moment.row];
    if (phase(op) == Phase::kOptimizer) {
      if (op.scope != kUserScope) {
        moment.is_end ? graph_->end(moment.row) : graph_->begin(moment.row);
      }
    } else {
      const auto& calls = tables_.module_calls;
      const int32_t module = op.module_call == kNoRow ? kUnknownOwner : rows_[calls[op.module_call].module];
      const uint32_t first = moment.is_end ? op.outputs : op.inputs;
      for (uint32_t i = first; i < first + (moment.is_end ? op.n_outputs : op.n_inputs); ++i) {
        graph_->accumulate(i, module, !moment.is_end && op.scope == kBackwardScope);
      }
    }
  }

  // Ops that read only numbers, such as the count of steps, prepare what comes next and get the module of the next op that has one.
  // Ops inside another one follow it, unless that one is for several modules.
  void finish_window() {
    graph_->find_owners();
    std::vector<int32_t> numbers;
    std::vector<std::pair<int32_t, int32_t>> inner;  // row, module
    graph_->for_each_op([&](int32_t row, int32_t module, bool uses_only_numbers) {
      const int32_t parent = tables_.ops[row].parent;
      if (parent != kNoRow && phase(tables_.ops[parent]) == Phase::kOptimizer && tables_.ops[parent].scope != kUserScope) {
        inner.emplace_back(row, module);
        return;
      }
      if (module == kUnknownOwner && uses_only_numbers) {
        numbers.push_back(row);
        return;
      }
      if (module >= 0) {
        numbers.push_back(row);
        for (const int32_t one : numbers) {
          assign(one, module);
        }
      }
      numbers.clear();
    });
    for (const auto& [row, module] : inner) {
      Op& op = tables_.ops[row];
      if ((tables_.ops[op.parent].flags & kAttributed) != 0) {
        op.module_call = tables_.ops[op.parent].module_call;
        op.flags |= kAttributed;
      } else if (module >= 0) {
        assign(row, module);
      }
    }
    graph_->for_each_tensor([&](uint32_t operand, int32_t module) { owners_[operand] = modules_[module]; });
  }

  void assign(int32_t row, int32_t module) {
    Op& op = tables_.ops[row];
    const auto& calls = calls_[module];
    const auto after = std::upper_bound(calls.begin(), calls.end(), std::pair{op.start, INT32_MAX});
    if (after != calls.begin() && std::prev(after)->first > window_start_) {
      op.module_call = std::prev(after)->second;
      op.flags |= kAttributed;
    } else if (after != calls.end() && after->first <= window_end_) {
      op.module_call = after->second;
      op.flags |= kAttributed;
    }
  }

  Tables& tables_;
  const std::vector<MemoryEvent>* events_;  // null: not recorded
  ModelTensors& tensors_;
  std::vector<uint64_t> modules_;  // their addresses: those of the trace, then others of the model
  std::vector<std::vector<std::pair<int64_t, int32_t>>> calls_;  // by module: start, row
  std::vector<int32_t> rows_;  // by module of the trace, in modules_: a lazy module is there twice, as its class changes
  HeldTensors held_;
  struct Made {
    int32_t module;
    size_t event;  // the one that allocated it
  };
  FlatMap<Made> made_;  // parameters that the model has at the end
  std::optional<UpdateGraph> graph_;
  int64_t window_start_ = INT64_MIN;
  int64_t window_end_ = INT64_MIN;
  size_t next_step_ = 0;
  size_t next_event_ = 0;
  StateOwners owners_;
};

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
  return rows;
}

}  // namespace

ModelTensors held_by_model(bool at_end, const std::vector<Held>& held) {
  ModelTensors tensors;
  for (const Held& item : held) {
    if ((item.uses & (kParameter | kGradient)) == 0 || item.at_end != at_end || item.bytes == 0) {
      continue;
    }
    const ModelTensor tensor{item.module, (item.uses & kParameter) != 0};
    const auto [known, is_new] = tensors.try_emplace(block_key(item.address, item.device_type), tensor);
    if (!is_new && known->module != item.module) {
      known->module = kShared;
    }
  }
  return tensors;
}

StateOwners attribute_optimizer(Tables& tables, const std::vector<MemoryEvent>* events, const std::vector<Held>& held,
                                ModelTensors& tensors) {
  const std::vector<int32_t> rows = rows_of_interest(tables);
  return tensors.size() == 0 && rows.empty() ? StateOwners{} : OptimizerAttribution(tables, events, held, tensors).run(rows);
}

}  // namespace torchprof
