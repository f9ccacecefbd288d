#include "collate/update_graph.h"

#include <algorithm>
#include <array>
#include <iterator>

#include "collate/block_key.h"
#include "collate/list_lengths.h"

namespace torchprof {
namespace {

constexpr int64_t kNumber = 8;    // bytes
constexpr int32_t kSeveral = -3;  // while owners are combined: there are several, and none of them counts

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
  if (const auto held = held_.find(key); held != held_.end()) {
    node.kind = held->second.is_parameter ? Kind::kParameter : Kind::kGradient;
    (held->second.is_parameter ? node.owner : node.gradient_of) = held->second.module;
  }
  const auto row = static_cast<int32_t>(tensors_.size());
  current_[key] = row;
  tensors_.push_back(std::move(node));
  return row;
}

int32_t UpdateGraph::node_of(uint32_t operand) {
  const Tensor& used = tensor(operand);
  const uint64_t key = block_key(used.storage, used.device_type);
  const bool is_passing =
      used.storage_bytes <= kNumber && !knows_frees_ && held_.count(key) == 0;  // its address is soon another's
  if (used.storage == 0 || used.storage_bytes == 0 || is_passing) {
    return kNoRow;
  }
  const auto found = current_.find(key);
  return found != current_.end() ? found->second : new_node(operand);
}

// The tensor is an input, or was made inside the op, or is new.
int32_t UpdateGraph::result_of(size_t place, uint32_t operand) {
  const Tensor& made = tensor(operand);
  const auto found = current_.find(block_key(made.storage, made.device_type));
  if (!knows_frees_ && found != current_.end() && tensors_[found->second].made_by <= place) {
    const std::vector<int32_t>& inputs = updates_[place].tensors;
    if (std::find(inputs.begin(), inputs.end(), found->second) == inputs.end()) {
      current_.erase(found);
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
  Update update{row, {}, 1, takes_lists(tables_.strings[op.signature]), false};
  update.tensors.reserve(op.n_inputs + op.n_outputs);
  for (uint32_t i = op.inputs; i < op.inputs + op.n_inputs; ++i) {
    update.tensors.push_back(node_of(i));
    if (const int32_t node = update.tensors.back(); node != kNoRow) {
      tensors_[node].updates.push_back(static_cast<uint32_t>(place));
      tensors_[node].read_by = std::min(tensors_[node].read_by, i);
    }
  }
  updates_.push_back(std::move(update));
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
    updates_[place].tensors.push_back(node);
    if (node != kNoRow) {
      tensors_[node].updates.push_back(static_cast<uint32_t>(place));
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
  find_list_lengths(tables_, updates_, tensors_);
  std::vector<uint32_t> next;
  for (const UsedTensor& node : tensors_) {
    if (node.owner != kUnknownOwner) {
      next.insert(next.end(), node.updates.begin(), node.updates.end());
    }
  }
  spread(std::move(next));
  next = {};
  for (UsedTensor& node : tensors_) {
    if (node.owner == kUnknownOwner && node.gradient_of != kUnknownOwner) {
      node.owner = node.gradient_of;
      next.insert(next.end(), node.updates.begin(), node.updates.end());
    }
  }
  spread(std::move(next));
}

void UpdateGraph::spread(std::vector<uint32_t> updates) {
  while (!updates.empty()) {
    std::sort(updates.begin(), updates.end());
    updates.erase(std::unique(updates.begin(), updates.end()), updates.end());
    votes_.clear();
    for (const uint32_t update : updates) {
      vote(updates_[update]);
    }
    updates.clear();
    for (const auto& [row, owner] : votes_) {
      UsedTensor& node = tensors_[row];
      node.owner = std::max(owner, kNoOwner);
      if (node.owner == kNoOwner && node.gradient_of >= 0) {
        node.owner = kUnknownOwner;  // it will say so itself
        continue;
      }
      updates.insert(updates.end(), node.updates.begin(), node.updates.end());
    }
  }
}

// A number says least: its owner is that of the ops on it.
int32_t UpdateGraph::owner_at(const Update& update, size_t in_list, size_t length) const {
  std::array<int32_t, 4> owners;  // by Kind
  owners.fill(kUnknownOwner);
  for_each_place(update, in_list, length, [&](size_t place) {
    if (is_known(update.tensors[place])) {
      const UsedTensor& node = tensors_[update.tensors[place]];
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
  return std::all_of(update.tensors.begin(), update.tensors.end(),
                     [&](int32_t node) { return node == kNoRow || tensors_[node].is_number; });
}

// Others may share a number, unless it has the shape of the parameter. In lists all tensors have it.
void UpdateGraph::vote(const Update& update) {
  for (size_t in_list = 0; in_list < update.list_length; ++in_list) {
    const int32_t owner = owner_at(update, in_list, update.list_length);
    if (owner == kUnknownOwner) {
      continue;
    }
    for_each_place(update, in_list, update.list_length, [&](size_t place) {
      const int32_t node = update.tensors[place];
      if (node == kNoRow || is_known(node)) {
        return;
      }
      bool counts = !update.takes_lists && !tensors_[node].is_number;
      for_each_place(update, in_list, update.list_length, [&](size_t other) {
        counts = counts || (is_known(update.tensors[other]) && shape(update, other) == shape(update, place));
      });
      if (counts) {
        const auto [found, is_first] = votes_.try_emplace(node, owner);
        found->second = is_first ? owner : combined(found->second, owner);
      }
    });
  }
}

}  // namespace torchprof
