// Which parameter each tensor in one step of an optimizer belongs to. Nothing says it, so it follows from what the ops combine, before
// and after:
//
//   mul_(buffer)            the buffer is not known yet          0, as the ops below say
//   add_(buffer, gradient)  of the gradient of module 0          0
//   add_(weight, buffer)    of the weight of module 0            0
//   cat(gradient, gradient) of several modules: the result is of none, and so is what is made of it alone
//
// The nearest parameter counts: what is combined with one directly, then what is combined with that, and so on. A tensor as near to
// those of several modules belongs to none. In an op on lists (foreach, fused) those at the same place of each list are combined.
#pragma once

#include <cstdint>
#include <unordered_map>
#include <vector>

#include "trace/tables.h"

namespace torchprof {

inline constexpr int32_t kUnknownOwner = -1;
inline constexpr int32_t kNoOwner = -2;  // of several modules
inline constexpr int32_t kSeveral = -2;  // parameters of one module

// The parameters and gradients that are known, by storage.
struct KnownOwners {
  std::vector<int32_t> modules;                      // by number of the parameter or gradient; parameters come first
  std::unordered_map<uint64_t, int32_t> parameters;  // storage -> number
  std::unordered_map<uint64_t, int32_t> gradients;   // the same
  size_t first_gradient = 0;                         // the lowest number of a gradient
};

class UpdateGraph {
 public:
  UpdateGraph(const Tables& tables, KnownOwners& known) : tables_(tables), known_(known) {}

  void add(int32_t row);                                      // of an op that is in no other op of the step, in order of time
  void forget(uint64_t storage) { current_.erase(storage); }  // another tensor is there from now on

  void find_owners();

  const std::vector<int32_t>& rows() const { return rows_; }
  int32_t module_of(size_t op) const { return owner_of(op).module; }  // by place in rows()
  bool reads_only_numbers(size_t op) const;

  // Calls f(operand, module) for the first use of each tensor that was there before the step and belongs to a module.
  template <typename Function>
  void for_each_state(Function f) const {
    for (const Node& node : nodes_) {
      if (node.was_there && node.owner.module >= 0) {
        f(node.operand, node.owner.module);
      }
    }
  }

 private:
  struct Owner {
    int32_t module = kUnknownOwner;
    int32_t number = kSeveral;  // of the parameter or gradient in KnownOwners
  };
  struct Node {  // a tensor and its views
    Owner owner;
    uint32_t operand;
    bool was_there;
    bool is_parameter;
    bool is_number;  // parameters may share a learning rate
    std::vector<uint32_t> ops;
  };
  struct Vote {
    Owner owner;
    bool several = false;
  };

  int32_t node_of(uint32_t operand, bool is_input);
  int32_t new_node(uint32_t operand, bool is_input);
  void vote(size_t op);
  void vote_in_lists(size_t op);
  void vote_for(int32_t node, Owner owner);
  Owner owner_of(size_t op) const;
  size_t list_length(size_t op, size_t& first) const;
  static void combine(Vote& vote, Owner owner, size_t first_gradient);

  const Tensor& tensor(uint32_t operand) const { return tables_.tensors[tables_.operands[operand]]; }
  bool is_known(int32_t node) const { return node >= 0 && nodes_[node].owner.module != kUnknownOwner; }
  size_t n_operands(size_t op) const { return tables_.ops[rows_[op]].n_inputs + tables_.ops[rows_[op]].n_outputs; }
  uint32_t operand(size_t op, size_t place) const {
    const Op& row = tables_.ops[rows_[op]];
    return static_cast<uint32_t>(place < row.n_inputs ? row.inputs + place : row.outputs + (place - row.n_inputs));
  }
  int32_t node(size_t op, size_t place) const { return operand_nodes_[first_[op] + place]; }

  const Tables& tables_;
  KnownOwners& known_;
  std::vector<Node> nodes_;
  std::unordered_map<uint64_t, int32_t> current_;  // storage -> the node of the tensor that is there now
  std::vector<int32_t> rows_;
  std::vector<size_t> first_;           // of each op, its first operand in the next
  std::vector<int32_t> operand_nodes_;  // of the inputs, then of the outputs; kNoRow: it has no memory
  std::unordered_map<int32_t, Vote> votes_;
};

}  // namespace torchprof
