#include "collate/lifetimes.h"

#include <algorithm>
#include <tuple>
#include <unordered_map>
#include <utility>

#include "collate/allocation_index.h"
#include "collate/block_key.h"
#include "collate/held_modules.h"
#include "trace/flat_map.h"

namespace torchprof {
namespace {

class Lifetimes {
 public:
  Lifetimes(Tables& tables, const MemoryReports& reports) : tables_(tables), reports_(reports), roles_(roles(tables)) {}

  void run() {
    pair_events();
    const AllocationIndex index(tables_.allocations);
    index_ = &index;
    paired_ = tables_.allocations.size();
    row_of_tensor_.assign(tables_.tensors.size(), kNoRow);
    mark_held();
    mark_operands();
    mark_module_tensors();
    mark_made_by_accumulation();
    mark_held_after_call();
    if (reports_.stacks) {
      tables_.allocation_stacks.resize(tables_.allocations.size(), kNoRow);
    }
  }

 private:
  void pair_events() {
    FlatMap<int32_t> open;  // the allocation that an address is of now, or kNoRow
    auto& allocations = tables_.allocations;
    allocations.reserve(reports_.events.size() / 2);  // most are freed again
    for (const MemoryEvent& event : reports_.events) {
      const uint64_t key = block_key(event.address, event.device_type);
      int32_t& current = *open.try_emplace(key, kNoRow).first;  // stays: addresses are used again and again
      if (event.bytes > 0) {
        if (current != kNoRow) {
          allocations[current].end = event.time;  // the free was not reported: it happened on a thread of the program
        }
        current = static_cast<int32_t>(allocations.size());
        const int32_t call = call_of(event);
        place(event);
        allocations.push_back({event.time, kNever, event.address, event.bytes, event.op, kNoRow, call, module_of(call),
                               event.thread, event.device_type, event.device_index, 0, 0});
      } else if (current != kNoRow) {
        allocations[current].end = event.time;
        allocations[current].free_op = event.op;
        current = kNoRow;
      } else if (event.bytes == kUnknownFree) {
        frees_from_before_[key].push_back({event.time, event.op});
      } else {
        allocations.push_back({kNever, event.time, event.address, -event.bytes, kNoRow, event.op, kNoRow, kNoRow, event.thread,
                               event.device_type, event.device_index, 0, 0});
      }
    }
  }

  // The stack of the block that is added next.
  void place(const MemoryEvent& event) {
    if (reports_.stacks) {
      tables_.allocation_stacks.resize(tables_.allocations.size(), kNoRow);
      const bool is_of_op = event.stack == kStackOfOp && event.op != kNoRow;
      const bool is_known = event.stack < kUnknownStack;
      tables_.allocation_stacks.push_back(is_of_op   ? tables_.op_stacks[event.op]
                                          : is_known ? static_cast<int32_t>(event.stack)
                                                     : kNoRow);
    }
  }

  int32_t call_of(const MemoryEvent& event) const {
    const bool follows_op = event.op != kNoRow && reports_.attributed.ran_in[event.op] == event.module_call;
    return follows_op ? tables_.ops[event.op].module_call : event.module_call;
  }
  int32_t module_of(int32_t call) const {
    return call == kNoRow ? kNoRow : static_cast<int32_t>(tables_.module_calls[call].module);
  }

  // The allocation behind a tensor at a time. One that was not reported is added when it is first used.
  int32_t allocation_of(const Tensor& tensor, int64_t time) {
    if (tensor.storage_bytes == 0 || tensor.storage == 0) {
      return kNoRow;
    }
    return allocation_at(tensor.storage, tensor.storage_bytes, tensor.device_type, tensor.device_index, time);
  }

  int32_t allocation_at(uint64_t address, int64_t bytes, int8_t device_type, int8_t device_index, int64_t time) {
    if (const int32_t found = index_->find(address, device_type, time); found != kNoRow) {
      return found;
    }
    if (const auto outer = reports_.around.find(address); device_type == kCpuDevice && outer != reports_.around.end()) {
      const Around& around = outer->second;
      if (around.address == kNothing) {
        return kNoRow;
      }
      if (const int32_t found = index_->find(around.address, around.device_type, time); found != kNoRow) {
        return found;
      }
      if (const auto found = before_.find(block_key(around.address, around.device_type)); found != before_.end()) {
        return found->second;
      }
    }
    return unreported(address, bytes, device_type, device_index, time);
  }

  // A block that was in use at a time, though nobody reported its allocation: it is from before the recording, unless another one was
  // there before it.
  int32_t unreported(uint64_t address, int64_t bytes, int8_t device_type, int8_t device_index, int64_t time) {
    const auto [found, is_new] =
        before_.try_emplace(block_key(address, device_type), static_cast<int32_t>(tables_.allocations.size()));
    if (!is_new && index_->is_allocated(found->second, time)) {
      return found->second;
    }
    found->second = static_cast<int32_t>(tables_.allocations.size());
    Allocation block{is_new ? kNever : time, kNever, address, bytes, kNoRow, kNoRow, kNoRow, kNoRow, 0, device_type,
                     device_index,           0,      0};
    if (const auto frees = frees_from_before_.find(block_key(address, device_type)); frees != frees_from_before_.end()) {
      const auto free = std::lower_bound(frees->second.begin(), frees->second.end(), Free{time, INT32_MIN});
      if (free != frees->second.end()) {
        std::tie(block.end, block.free_op) = *free;
      }
    }
    if (const int64_t reused = index_->next_start(address, device_type, time);
        reused != kNever && (block.end == kNever || reused < block.end)) {
      block.end = reused;  // nobody reported its free either
      block.free_op = kNoRow;
    }
    tables_.allocations.push_back(block);
    return found->second;
  }

  void use(int32_t row, uint16_t how) {
    if (row != kNoRow) {
      tables_.allocations[row].uses |= how;
    }
  }

  // Consecutive uses of a tensor are nearly always of one allocation.
  int32_t allocation_of(int32_t tensor, int64_t time) {
    int32_t& recent = row_of_tensor_[tensor];
    if (recent == kNoRow || !index_->is_allocated(recent, time)) {
      recent = allocation_of(tables_.tensors[tensor], time);
    }
    return recent;
  }

  void mark_operands() {
    for (const Op& op : tables_.ops) {
      const uint16_t how = how_it_reads(op);  // even if it is 0, the block is one of the program's
      for (uint32_t i = 0; i < op.n_inputs; ++i) {
        const int32_t row = allocation_of(tables_.operands[op.inputs + i], op.start);
        use(row, how);
        if (how == kReadByOptimizer && row != kNoRow) {
          own_state(tables_.allocations[row], op.inputs + i);
        }
      }
      if (roles_[op.signature] == Role::kAccumulation && op.n_inputs != 0) {
        const int32_t row = allocation_of(tables_.operands[op.inputs], op.start);
        if (row != kNoRow && (tables_.allocations[row].end == kNever || tables_.allocations[row].end > op.end)) {
          make_gradient(row, op);
        }
      }
    }
  }

  // What an optimizer reads and no op or module says the owner of: its state from before the recording, for example.
  void own_state(Allocation& state, uint32_t operand) const {
    const StateOwners& owners = reports_.attributed.state_owners;
    if (const auto owner = owners.find(operand); owner != owners.end() && state.module == kNoRow) {
      const auto module = modules_.find(owner->second);
      state.module =
          module != modules_.end() ? module->second : kNoRow;  // it was called in an earlier step, which is summed up
    }
  }

  static uint16_t how_it_reads(const Op& op) {
    switch (phase(op)) {
      case Phase::kForward:
        return kReadByForward;
      case Phase::kRecomputation:
      case Phase::kBackward:
        return kReadByBackward;
      case Phase::kOptimizer:
        return kReadByOptimizer;
      default:
        return 0;
    }
  }

  void make_gradient(int32_t row, const Op& accumulation) {
    tables_.allocations[row].uses |= kGradient;
    if (accumulation.module_call != kNoRow) {
      tables_.allocations[row].module = module_of(accumulation.module_call);
    }
  }

  // Autograd copies a gradient that it cannot keep: then accumulation allocates it.
  void mark_made_by_accumulation() {
    for (size_t row = 0; row < paired_; ++row) {
      const Allocation& allocation = tables_.allocations[row];
      for (int32_t op = allocation.op; op != kNoRow; op = tables_.ops[op].parent) {
        if (roles_[tables_.ops[op].signature] == Role::kAccumulation) {
          if (allocation.end == kNever || allocation.end > tables_.ops[op].end) {
            make_gradient(static_cast<int32_t>(row), tables_.ops[op]);
          }
          break;
        }
        if (phase(tables_.ops[op]) != Phase::kBackward) {
          break;
        }
      }
    }
  }

  void mark_module_tensors() {
    for (const ModuleCall& call : tables_.module_calls) {
      if (call.parent != kNoRow || (call.flags & kRecomputed) != 0) {
        continue;
      }
      for (uint32_t i = 0; i < call.n_inputs; ++i) {
        use(allocation_of(tables_.operands[call.inputs + i], call.start), kModuleInput);
      }
      for (uint32_t i = 0; i < call.n_outputs; ++i) {
        use(allocation_of(tables_.operands[call.outputs + i], call.end), kModuleOutput);
      }
    }
  }

  void mark_held_after_call() {
    for (size_t row = 0; row < paired_; ++row) {
      Allocation& allocation = tables_.allocations[row];
      if (allocation.start != kNever && (allocation.end == kNever || allocation.end > end_of_what_made(allocation))) {
        allocation.uses |= kHeldAfterCall;
      }
    }
  }

  // The end of the outermost call, or if there is none of the outermost op, or of the whole step of an optimizer.
  int64_t end_of_what_made(const Allocation& allocation) const {
    const int32_t op = allocation.op;
    const int32_t call = op != kNoRow ? reports_.attributed.ran_in[op] : allocation.module_call;
    if (call != kNoRow) {
      int32_t outermost = call;
      while (tables_.module_calls[outermost].parent != kNoRow) {
        outermost = tables_.module_calls[outermost].parent;
      }
      return tables_.module_calls[outermost].end;
    }
    int64_t end = allocation.start;
    for (int32_t row = op; row != kNoRow; row = tables_.ops[row].parent) {
      const Op& around = tables_.ops[row];
      if (around.scope != kUserScope || (phase(around) == Phase::kOptimizer && phase(tables_.ops[op]) == Phase::kOptimizer)) {
        end = std::max(end, around.end);  // a range may end after the op that it began in
      }
    }
    return end;
  }

  void mark_held() {
    add_modules(tables_, reports_.held);
    for (size_t row = 0; row < tables_.modules.size(); ++row) {
      modules_[tables_.modules[row].address] = static_cast<int32_t>(row);
    }
    for (const Held& held : reports_.held) {
      if (held.bytes == 0) {
        continue;
      }
      const int64_t time = held.at_end ? reports_.end : 0;
      const int32_t row = allocation_at(held.address, held.bytes, held.device_type, held.device_index, time);
      if (row == kNoRow) {
        continue;
      }
      Allocation& allocation = tables_.allocations[row];
      if ((allocation.uses & (kParameter | kBuffer)) == 0) {  // if modules share it, it belongs to the first
        allocation.module = modules_.at(held.module);
      }
      allocation.uses |= held.uses;
    }
  }

  Tables& tables_;
  const MemoryReports& reports_;
  const std::vector<Role> roles_;
  const AllocationIndex* index_ = nullptr;
  size_t paired_ = 0;                                                  // rows from here on are from before the recording
  std::unordered_map<uint64_t, int32_t> modules_;                      // address -> row
  std::vector<int32_t> row_of_tensor_;                                 // of each tensor, the allocation it was last found in
  using Free = std::pair<int64_t, int32_t>;                            // its time and op
  std::unordered_map<uint64_t, std::vector<Free>> frees_from_before_;  // by address
  std::unordered_map<uint64_t, int32_t> before_;                       // the latest unreported block at an address
};

}  // namespace

void find_allocations(Tables& tables, const MemoryReports& reports) { Lifetimes(tables, reports).run(); }

}  // namespace torchprof
