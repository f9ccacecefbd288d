// To which module each tensor belongs that optimizers use. Nothing says it, so it follows from what the ops combine, before and after:
//
//   mul_(buffer)            the buffer is not known yet          0, as the ops below say
//   add_(buffer, gradient)                                       0
//   add_(weight, buffer)    of the weight of module 0            0
//   cat(gradient, gradient) of several modules: the result is of none, and so is what is made of it alone
//
// The nearest parameter counts: what is combined with one directly, then what is combined with that, and so on. A tensor as near to
// those of several modules belongs to none. Gradients say it where no parameter does. In an op on lists (foreach, fused) those at
// the same place of each list are combined.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "collate/updates.h"
#include "trace/flat_map.h"
#include "trace/tables.h"

namespace torchprof {

// A parameter or a gradient, which may be from an earlier step.
struct HeldTensor {
  int32_t module;
  bool is_parameter;
};
using HeldTensors = FlatMap<HeldTensor>;  // by block_key() of the storage

class UpdateGraph {
 public:
  // knows_frees: forget() is called for all that is allocated or freed. Otherwise an address may be of a tensor that is gone.
  UpdateGraph(const Tables& tables, HeldTensors& held, bool knows_frees)
      : tables_(tables), held_(held), knows_frees_(knows_frees), takes_lists_(tables.strings.size(), Takes::kNotKnown) {}

  // In order of time. `row` is one of an op of an optimizer.
  void begin(int32_t row);
  void end(int32_t row);
  void accumulate(uint32_t operand, int32_t module, bool is_new);  // a gradient of the module, or of kUnknownOwner
  void forget(uint64_t key);                                       // another tensor is there from now on, if any

  void find_owners();

  // Calls f(row, module, whether it uses nothing but numbers) for each op of an optimizer, in order of time.
  template <typename Function>
  void for_each_op(Function f) const {
    for (const Update& update : updates_) {
      f(update.row, owner_at(update, 0, 1), uses_only_numbers(update));
    }
  }
  // Calls f(operand, module) for each tensor that an optimizer reads and that belongs to a module, where it is read first.
  template <typename Function>
  void for_each_tensor(Function f) const {
    for (const UsedTensor& node : tensors_) {
      if (node.read_by != kNotRead && node.owner >= 0) {
        f(node.read_by, node.owner);
      }
    }
  }

 private:
  int32_t node_of(uint32_t operand);
  int32_t new_node(uint32_t operand);
  int32_t result_of(size_t place, uint32_t operand);
  bool takes_lists(uint32_t name);
  void use(int32_t node, size_t update);
  void add_updates(const UsedTensor& node, std::vector<uint32_t>& updates) const;
  void spread(std::vector<uint32_t> updates);
  void vote(const Update& update);
  int32_t owner_at(const Update& update, size_t in_list, size_t length) const;  // of all operands at one place of each list
  bool uses_only_numbers(const Update& update) const;

  const Tensor& tensor(uint32_t operand) const { return tables_.tensors[tables_.operands[operand]]; }
  int32_t used(const Update& update, size_t place) const { return used_[update.first + place]; }
  uint32_t shape(const Update& update, size_t place) const {
    const Op& op = tables_.ops[update.row];
    return tensor(static_cast<uint32_t>(place < op.n_inputs ? op.inputs + place : op.outputs + (place - op.n_inputs))).shape;
  }
  // Calls f(place) for the operands at one place of each list of inputs, and of outputs.
  template <typename Function>
  void for_each_place(const Update& update, size_t in_list, size_t length, Function f) const {
    const size_t inputs = std::min<size_t>(tables_.ops[update.row].n_inputs, update.count);
    for (size_t place = in_list; place < inputs; place += length) {
      f(place);
    }
    for (size_t place = inputs + in_list; place < update.count; place += length) {
      f(place);
    }
  }
  bool is_known(int32_t node) const { return node != kNoRow && tensors_[node].owner != kUnknownOwner; }

  const Tables& tables_;
  HeldTensors& held_;
  const bool knows_frees_;
  std::vector<UsedTensor> tensors_;
  std::vector<Update> updates_;
  std::vector<int32_t> used_;  // the tensors of all updates
  std::vector<Use> uses_;
  FlatMap<int32_t> current_;    // block_key() -> the node of the tensor that is there now
  std::vector<size_t> open_;    // updates that have not ended, the innermost one last
  std::vector<int32_t> votes_;  // by node: its owner, as those say that were asked
  std::vector<int32_t> voted_;  // the nodes of which any said it
  enum class Takes : uint8_t { kNotKnown, kTensors, kLists };
  std::vector<Takes> takes_lists_;  // by row of strings
};

}  // namespace torchprof
