#include "collate/update_graph.h"

#include <algorithm>
#include <string_view>
#include <unordered_set>
#include <utility>

namespace torchprof {
namespace {

constexpr int64_t kNumber = 8;  // bytes

bool contains(std::string_view name, std::string_view part) { return name.find(part) != std::string_view::npos; }

bool takes_lists(std::string_view name) { return contains(name, "::_foreach_") || contains(name, "::_fused_"); }

// Whether an op on lists can have so many tensors; beside the lists it may read a few numbers.
bool can_be_lists(std::string_view name, size_t tensors, size_t length) {
  const size_t lists = tensors / length;
  if (contains(name, "::_fused_")) {
    return tensors % length <= 3 || length <= 3;
  }
  const size_t most = contains(name, "addc") || contains(name, "lerp") ? 3 : 2;
  return lists <= most && tensors - lists * length <= 1;
}

}  // namespace

int32_t UpdateGraph::new_node(uint32_t operand, bool is_input) {
  const Tensor& made = tensor(operand);
  Node node{{}, operand, is_input, false, made.storage_bytes <= kNumber, {}};
  const auto parameter = known_.parameters.find(made.storage);
  if (parameter != known_.parameters.end()) {
    node.is_parameter = true;
    node.owner = {known_.modules[parameter->second], parameter->second};
  } else if (const auto gradient = known_.gradients.find(made.storage); gradient != known_.gradients.end() && is_input) {
    node.owner = {known_.modules[gradient->second], gradient->second};
  } else if (gradient != known_.gradients.end()) {
    known_.gradients.erase(gradient);  // it is gone
  }
  const auto row = static_cast<int32_t>(nodes_.size());
  current_[made.storage] = row;
  nodes_.push_back(std::move(node));
  return row;
}

void UpdateGraph::add(int32_t row) {
  const Op& op = tables_.ops[row];
  const auto place = static_cast<uint32_t>(rows_.size());
  rows_.push_back(row);
  first_.push_back(operand_nodes_.size());
  const size_t first = operand_nodes_.size();
  for (uint32_t i = 0; i < op.n_inputs; ++i) {
    operand_nodes_.push_back(node_of(op.inputs + i, true));
  }
  const size_t inputs = operand_nodes_.size();
  for (uint32_t i = 0; i < op.n_outputs; ++i) {
    const auto found = current_.find(tensor(op.outputs + i).storage);
    const auto begin = operand_nodes_.begin() + static_cast<std::ptrdiff_t>(first);
    const auto end = operand_nodes_.begin() + static_cast<std::ptrdiff_t>(inputs);
    const bool is_view = found != current_.end() && std::find(begin, end, found->second) != end;
    operand_nodes_.push_back(is_view ? found->second : node_of(op.outputs + i, false));
  }
  for (size_t i = first; i < operand_nodes_.size(); ++i) {
    if (const int32_t node = operand_nodes_[i];
        node != kNoRow && (nodes_[node].ops.empty() || nodes_[node].ops.back() != place)) {
      nodes_[node].ops.push_back(place);
    }
  }
}

int32_t UpdateGraph::node_of(uint32_t operand, bool is_input) {
  const Tensor& used = tensor(operand);
  if (used.storage == 0 || used.storage_bytes == 0) {
    return kNoRow;
  }
  const auto found = current_.find(used.storage);
  return is_input && found != current_.end() ? found->second : new_node(operand, is_input);
}

void UpdateGraph::find_owners() {
  std::vector<uint32_t> next;
  for (const Node& node : nodes_) {
    if (node.owner.module != kUnknownOwner) {
      next.insert(next.end(), node.ops.begin(), node.ops.end());
    }
  }
  while (!next.empty()) {
    std::sort(next.begin(), next.end());
    next.erase(std::unique(next.begin(), next.end()), next.end());
    votes_.clear();
    for (const uint32_t op : next) {
      vote(op);
    }
    next.clear();
    for (const auto& [row, vote] : votes_) {
      Node& node = nodes_[row];
      node.owner = vote.several || vote.owner.module < 0 ? Owner{kNoOwner, kSeveral} : vote.owner;
      next.insert(next.end(), node.ops.begin(), node.ops.end());
    }
  }
}

// A parameter is better known than a gradient.
void UpdateGraph::combine(Vote& vote, Owner owner, size_t first_gradient) {
  const auto is_gradient = [&](Owner one) { return one.number >= static_cast<int32_t>(first_gradient); };
  if (vote.owner.module < 0) {
    vote.owner = owner.module != kUnknownOwner ? owner : vote.owner;
  } else if (owner.module >= 0 && owner.module != vote.owner.module) {
    vote.several = true;
  } else if (owner.module >= 0 && owner.number != vote.owner.number) {
    if (is_gradient(owner) == is_gradient(vote.owner)) {
      vote.owner.number = kSeveral;
    } else if (is_gradient(vote.owner)) {
      vote.owner = owner;
    }
  }
}

// A number says least: a parameter of one element is known by what it is, its state only by the ops on it.
UpdateGraph::Owner UpdateGraph::owner_of(size_t op) const {
  Vote by[3];
  for (size_t place = 0; place < n_operands(op); ++place) {
    if (is_known(node(op, place))) {
      const Node& one = nodes_[node(op, place)];
      combine(by[one.is_parameter ? 0 : one.is_number ? 2 : 1], one.owner, known_.first_gradient);
    }
  }
  for (const Vote& vote : by) {
    if (vote.several) {
      return {kNoOwner, kSeveral};
    }
    if (vote.owner.module >= 0 || (&vote == &by[1] && vote.owner.module == kNoOwner)) {
      return vote.owner;
    }
  }
  return {};
}

bool UpdateGraph::reads_only_numbers(size_t op) const {
  for (size_t place = 0; place < n_operands(op); ++place) {
    if (node(op, place) != kNoRow && !nodes_[node(op, place)].is_number) {
      return false;
    }
  }
  return true;
}

void UpdateGraph::vote_for(int32_t node, Owner owner) {
  if (node != kNoRow && !is_known(node)) {
    combine(votes_[node], owner, known_.first_gradient);
  }
}

void UpdateGraph::vote(size_t op) {
  if (takes_lists(tables_.strings[tables_.ops[rows_[op]].signature])) {
    vote_in_lists(op);
    return;
  }
  const Owner owner = owner_of(op);
  if (owner.module == kUnknownOwner) {
    return;
  }
  for (size_t place = 0; place < n_operands(op); ++place) {
    const int32_t one = node(op, place);
    if (one == kNoRow || is_known(one)) {
      continue;
    }
    bool counts = !nodes_[one].is_number;
    for (size_t other = 0; other < n_operands(op) && !counts; ++other) {
      counts = is_known(node(op, other)) && tensor(operand(op, other)).shape == tensor(operand(op, place)).shape;
    }
    if (counts) {
      vote_for(one, owner);
    }
  }
}

// The first list whose owners are known: where it begins, and how long it is. A list of parameters, if there is one, or else of
// gradients or of what belongs to them.
size_t UpdateGraph::list_length(size_t op, size_t& first) const {
  const size_t inputs = tables_.ops[rows_[op]].n_inputs;
  const auto kind = [&](size_t place) {
    const int32_t row = node(op, place);
    if (row == kNoRow || nodes_[row].owner.module < 0 || nodes_[row].owner.number < 0) {
      return 0;
    }
    const bool of_gradient = nodes_[row].owner.number >= static_cast<int32_t>(known_.first_gradient);
    return nodes_[row].is_parameter ? 1 : of_gradient ? 2 : 3;
  };
  first = inputs;
  for (size_t place = 0; place < inputs; ++place) {
    if (kind(place) == 1 || (kind(place) != 0 && first == inputs)) {
      first = place;
      if (kind(place) == 1) {
        break;
      }
    }
  }
  std::unordered_set<int32_t> seen;
  size_t after = first;
  while (after < inputs && kind(after) == kind(first) && seen.insert(nodes_[node(op, after)].owner.number).second) {
    ++after;
  }
  return after - first;
}

void UpdateGraph::vote_in_lists(size_t op) {
  const Op& row = tables_.ops[rows_[op]];
  size_t first = 0;
  const size_t length = list_length(op, first);
  if (length == 0 || first % length != 0 || !can_be_lists(tables_.strings[row.signature], row.n_inputs, length)) {
    return;
  }
  for (size_t place = 0; place < n_operands(op); ++place) {
    const size_t in_list = (place < row.n_inputs ? place : place - row.n_inputs) % length;
    const size_t known = first + in_list;
    if (tensor(operand(op, place)).shape == tensor(operand(op, known)).shape) {
      vote_for(node(op, place), nodes_[node(op, known)].owner);
    }
  }
}

}  // namespace torchprof
