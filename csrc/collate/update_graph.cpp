#include "collate/update_graph.h"

#include <algorithm>
#include <array>
#include <iterator>
#include <utility>

#include "collate/block_key.h"
#include "collate/list_lengths.h"

namespace torchprof {
namespace {

constexpr int64_t kNumber = 8;    // bytes
constexpr int32_t kSeveral = -3;  // while owners are combined: there are several, and none of them counts
constexpr int32_t kNoVote = -4;

int32_t combined(int32_t a, int32_t b) {
  if (a >= 0 && b >= 0) {
    return a == b ? a : kSeveral;
  }
  if (a == kSeveral || b == kSeveral) {
    return kSeveral;
  }
  return a >= 0 || b == kUnknownOwner ? a : b;
}

}  // namespace

int32_t UpdateGraph::new_node(uint32_t operand) {
  const Tensor& used = tensor(operand);
  UsedTensor node;
  node.is_number = used.storage_bytes <= kNumber;
  node.kind = node.is_number ? Kind::kNumber : Kind::kTensor;
  node.made_by = updates_.size();
  const uint64_t key = block_key(used.storage, used.device_type);
  if (const HeldTensor* const held = held_.find(key)) {
    node.kind = held->is_parameter ? Kind::kParameter : Kind::kGradient;
    (held->is_parameter ? node.owner : node.gradient_of) = held->module;
  }
  const auto row = static_cast<int32_t>(tensors_.size());
  current_[key] = row;
  tensors_.push_back(node);
  return row;
}

int32_t UpdateGraph::node_of(uint32_t operand) {
  const Tensor& used = tensor(operand);
  const uint64_t key = block_key(used.storage, used.device_type);
  const bool is_passing =
      used.storage_bytes <= kNumber && !knows_frees_ && held_.find(key) == nullptr;  // its address is soon another's
  if (used.storage == 0 || used.storage_bytes == 0 || is_passing) {
    return kNoRow;
  }
  const int32_t* const found = current_.find(key);
  return found != nullptr ? *found : new_node(operand);
}

// The tensor is an input, or was made inside the op, or is new.
int32_t UpdateGraph::result_of(size_t place, uint32_t operand) {
  const Tensor& made = tensor(operand);
  const uint64_t key = block_key(made.storage, made.device_type);
  const int32_t* const found = knows_frees_ ? nullptr : current_.find(key);
  if (found != nullptr && tensors_[*found].made_by <= place) {
    const auto first = used_.begin() + updates_[place].first;
    const auto last = first + updates_[place].count;
    if (std::find(first, last, *found) == last) {
      current_.erase(key);
    }
  }
  return node_of(operand);
}

void UpdateGraph::begin(int32_t row) {
  const Op& op = tables_.ops[row];
  const size_t place = updates_.size();
  for (const size_t around : open_) {
    updates_[around].has_ops_inside = updates_[around].has_ops_inside || updates_[around].row == op.parent;
  }
  open_.push_back(place);
  Update update{row, static_cast<uint32_t>(used_.size()), op.n_inputs, 1, takes_lists(op.signature), false};
  used_.resize(used_.size() + op.n_inputs + op.n_outputs, kNoRow);
  for (uint32_t i = 0; i < op.n_inputs; ++i) {
    const int32_t node = used_[update.first + i] = node_of(op.inputs + i);
    if (node != kNoRow) {
      use(node, place);
      tensors_[node].read_by = std::min(tensors_[node].read_by, op.inputs + i);
    }
  }
  updates_.push_back(update);
}

bool UpdateGraph::takes_lists(uint32_t name) {
  Takes& known = takes_lists_[name];
  if (known == Takes::kNotKnown) {
    known = torchprof::takes_lists(tables_.strings[name]) ? Takes::kLists : Takes::kTensors;
  }
  return known == Takes::kLists;
}

void UpdateGraph::use(int32_t node, size_t update) {
  uses_.push_back({static_cast<uint32_t>(update), tensors_[node].latest_use});
  tensors_[node].latest_use = static_cast<uint32_t>(uses_.size() - 1);
}

void UpdateGraph::add_updates(const UsedTensor& node, std::vector<uint32_t>& updates) const {
  for (uint32_t use = node.latest_use; use != kNoUse; use = uses_[use].before) {
    updates.push_back(uses_[use].update);
  }
}

void UpdateGraph::end(int32_t row) {
  const auto open = std::find_if(open_.rbegin(), open_.rend(), [&](size_t place) { return updates_[place].row == row; });
  if (open == open_.rend()) {
    return;  // it began in an earlier step
  }
  const size_t place = *open;
  open_.erase(std::prev(open.base()));
  const Op& op = tables_.ops[row];
  for (uint32_t i = op.outputs; i < op.outputs + op.n_outputs; ++i) {
    const int32_t node = result_of(place, i);
    Update& update = updates_[place];
    used_[update.first + update.count++] = node;
    if (node != kNoRow) {
      use(node, place);
    }
  }
}

void UpdateGraph::accumulate(uint32_t operand, int32_t module, bool is_new) {
  const uint64_t key = block_key(tensor(operand).storage, tensor(operand).device_type);
  if (is_new && !knows_frees_) {
    current_.erase(key);
  }
  const int32_t row = node_of(operand);
  if (row == kNoRow || tensors_[row].kind == Kind::kParameter) {
    return;
  }
  UsedTensor& node = tensors_[row];
  node.kind = Kind::kGradient;
  node.gradient_of = std::max(combined(node.gradient_of, module), kNoOwner);
  if (knows_frees_ && node.gradient_of != kUnknownOwner) {
    held_[key] = {node.gradient_of, false};
  }
}

void UpdateGraph::forget(uint64_t key) {
  current_.erase(key);
  held_.erase(key);
}

void UpdateGraph::find_owners() {
  find_list_lengths(tables_, used_, updates_, tensors_);
  votes_.assign(tensors_.size(), kNoVote);
  std::vector<uint32_t> next;
  for (const UsedTensor& node : tensors_) {
    if (node.owner != kUnknownOwner) {
      add_updates(node, next);
    }
  }
  spread(std::move(next));
  next = {};
  for (UsedTensor& node : tensors_) {
    if (node.owner == kUnknownOwner && node.gradient_of != kUnknownOwner) {
      node.owner = node.gradient_of;
      add_updates(node, next);
    }
  }
  spread(std::move(next));
}

void UpdateGraph::spread(std::vector<uint32_t> updates) {
  while (!updates.empty()) {
    std::sort(updates.begin(), updates.end());
    updates.erase(std::unique(updates.begin(), updates.end()), updates.end());
    for (const uint32_t update : updates) {
      vote(updates_[update]);
    }
    updates.clear();
    for (const int32_t row : voted_) {
      UsedTensor& node = tensors_[row];
      node.owner = std::max(std::exchange(votes_[row], kNoVote), kNoOwner);
      if (node.owner == kNoOwner && node.gradient_of >= 0) {
        node.owner = kUnknownOwner;  // it will say so itself
        continue;
      }
      add_updates(node, updates);
    }
    voted_.clear();
  }
}

// A number says least: its owner is that of the ops on it.
int32_t UpdateGraph::owner_at(const Update& update, size_t in_list, size_t length) const {
  std::array<int32_t, 4> owners;  // by Kind
  owners.fill(kUnknownOwner);
  for_each_place(update, in_list, length, [&](size_t place) {
    if (const int32_t row = used(update, place); is_known(row)) {
      const UsedTensor& node = tensors_[row];
      int32_t& owner = owners[static_cast<size_t>(node.kind)];
      owner = combined(owner, node.owner);
    }
  });
  for (size_t kind = 0; kind < owners.size(); ++kind) {
    if (owners[kind] >= 0 || owners[kind] == kSeveral) {
      return std::max(owners[kind], kNoOwner);
    }
    if (owners[kind] == kNoOwner && static_cast<Kind>(kind) == Kind::kTensor) {
      return kNoOwner;
    }
  }
  return kUnknownOwner;
}

bool UpdateGraph::uses_only_numbers(const Update& update) const {
  const auto first = used_.begin() + update.first;
  return std::all_of(first, first + update.count, [&](int32_t node) { return node == kNoRow || tensors_[node].is_number; });
}

// Others may share a number, unless it has the shape of the parameter. In lists all tensors have it.
void UpdateGraph::vote(const Update& update) {
  for (size_t in_list = 0; in_list < update.list_length; ++in_list) {
    const int32_t owner = owner_at(update, in_list, update.list_length);
    if (owner == kUnknownOwner) {
      continue;
    }
    for_each_place(update, in_list, update.list_length, [&](size_t place) {
      const int32_t node = used(update, place);
      if (node == kNoRow || is_known(node)) {
        return;
      }
      bool counts = !update.takes_lists && !tensors_[node].is_number;
      for_each_place(update, in_list, update.list_length, [&](size_t other) {
        counts = counts || (is_known(used(update, other)) && shape(update, other) == shape(update, place));
      });
      if (counts) {
        int32_t& vote = votes_[node];
        if (vote == kNoVote) {
          voted_.push_back(node);
        }
        vote = vote == kNoVote ? owner : combined(vote, owner);
      }
    });
  }
}

}  // namespace torchprof
