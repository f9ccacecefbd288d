#include "collate/update_graph.h"

#include <algorithm>
#include <array>
#include <string_view>

#include "collate/block_key.h"

namespace torchprof {
namespace {

constexpr int64_t kNumber = 8;       // bytes
constexpr int32_t kSeveral = -3;     // while owners are combined: there are several, and none of them counts

bool contains(std::string_view name, std::string_view part) { return name.find(part) != std::string_view::npos; }
bool is_fused(std::string_view name) { return contains(name, "::_fused_"); }

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
  Node node;
  node.is_number = used.storage_bytes <= kNumber;
  node.kind = node.is_number ? Kind::kNumber : Kind::kTensor;
  node.made_by = updates_.size();
  const uint64_t key = block_key(used.storage, used.device_type);
  if (const auto held = held_.find(key); held != held_.end()) {
    node.kind = held->second.is_parameter ? Kind::kParameter : Kind::kGradient;
    (held->second.is_parameter ? node.owner : node.gradient_of) = held->second.module;
  }
  const auto row = static_cast<int32_t>(nodes_.size());
  current_[key] = row;
  nodes_.push_back(std::move(node));
  return row;
}

int32_t UpdateGraph::node_of(uint32_t operand) {
  const Tensor& used = tensor(operand);
  const uint64_t key = block_key(used.storage, used.device_type);
  const bool is_passing = used.storage_bytes <= kNumber && !knows_frees_ && held_.count(key) == 0;  // its address is soon another's
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
  if (!knows_frees_ && found != current_.end() && nodes_[found->second].made_by <= place) {
    const std::vector<int32_t>& inputs = updates_[place].nodes;
    if (std::find(inputs.begin(), inputs.end(), found->second) == inputs.end()) {
      current_.erase(found);
    }
  }
  return node_of(operand);
}

void UpdateGraph::begin(int32_t row) {
  const Op& op = tables_.ops[row];
  const std::string_view name = tables_.strings[op.signature];
  const size_t place = updates_.size();
  if (const auto around = open_.find(op.parent); around != open_.end()) {
    updates_[around->second].has_ops_inside = true;
  }
  open_[row] = place;
  Update update{row, {}, 1, contains(name, "::_foreach_") || is_fused(name), false};
  for (uint32_t i = op.inputs; i < op.inputs + op.n_inputs; ++i) {
    update.nodes.push_back(node_of(i));
    if (const int32_t node = update.nodes.back(); node != kNoRow) {
      nodes_[node].updates.push_back(static_cast<uint32_t>(place));
      nodes_[node].read_by = std::min(nodes_[node].read_by, i);
    }
  }
  updates_.push_back(std::move(update));
}

void UpdateGraph::end(int32_t row) {
  const auto open = open_.find(row);
  if (open == open_.end()) {
    return;
  }
  const size_t place = open->second;
  open_.erase(open);
  const Op& op = tables_.ops[row];
  for (uint32_t i = op.outputs; i < op.outputs + op.n_outputs; ++i) {
    const int32_t node = result_of(place, i);
    updates_[place].nodes.push_back(node);
    if (node != kNoRow) {
      nodes_[node].updates.push_back(static_cast<uint32_t>(place));
    }
  }
}

void UpdateGraph::accumulate(uint32_t operand, int32_t module, bool is_new) {
  const uint64_t key = block_key(tensor(operand).storage, tensor(operand).device_type);
  if (is_new && !knows_frees_) {
    current_.erase(key);
  }
  const int32_t row = node_of(operand);
  if (row == kNoRow || nodes_[row].kind == Kind::kParameter) {
    return;
  }
  Node& node = nodes_[row];
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
  find_list_lengths();
  std::vector<uint32_t> next;
  for (const Node& node : nodes_) {
    if (node.owner != kUnknownOwner) {
      next.insert(next.end(), node.updates.begin(), node.updates.end());
    }
  }
  spread(std::move(next));
  next = {};
  for (Node& node : nodes_) {
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
      Node& node = nodes_[row];
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
    if (is_known(update.nodes[place])) {
      const Node& node = nodes_[update.nodes[place]];
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
  return std::all_of(update.nodes.begin(), update.nodes.end(),
                     [&](int32_t node) { return node == kNoRow || nodes_[node].is_number; });
}

// A number belongs to a parameter of the same shape: others may share it. So do tensors in lists, which may be other lists than expected.
void UpdateGraph::vote(const Update& update) {
  for (size_t in_list = 0; in_list < update.list_length; ++in_list) {
    const int32_t owner = owner_at(update, in_list, update.list_length);
    if (owner == kUnknownOwner) {
      continue;
    }
    for_each_place(update, in_list, update.list_length, [&](size_t place) {
      const int32_t node = update.nodes[place];
      if (node == kNoRow || is_known(node)) {
        return;
      }
      bool counts = !update.takes_lists && !nodes_[node].is_number;
      for_each_place(update, in_list, update.list_length, [&](size_t other) {
        counts = counts || (is_known(update.nodes[other]) && shape(update, other) == shape(update, place));
      });
      if (counts) {
        const auto [found, is_first] = votes_.try_emplace(node, owner);
        found->second = is_first ? owner : combined(found->second, owner);
      }
    });
  }
}

// The lists of an op follow one another, and where one ends is known only by what is in them. What foreach runs inside, one tensor
// after the other, says more; a fused op only reads numbers there.
void UpdateGraph::find_list_lengths() {
  std::vector<Update*> in_question;
  for (Update& update : updates_) {
    if (update.takes_lists) {
      update.list_length = 0;
      const bool is_done_inside = update.has_ops_inside && !is_fused(tables_.strings[tables_.ops[update.row].signature]);
      if (!is_done_inside && (tables_.ops[update.row].flags & kTruncated) == 0) {
        in_question.push_back(&update);
      }
    }
  }
  const auto decide = [&](auto length_of) {
    bool found = false;
    for (Update* const update : in_question) {
      const size_t length = update->list_length == 0 ? length_of(*update) : 0;
      if (length == 0) {
        continue;
      }
      found = true;
      update->list_length = length;
      const size_t inputs = tables_.ops[update->row].n_inputs;
      for (size_t place = 0; place < update->nodes.size(); ++place) {
        if (const int32_t node = update->nodes[place]; node != kNoRow && (place >= inputs || place < inputs / length * length)) {
          nodes_[node].list_length = length;
        }
      }
    }
    return found;
  };
  const auto if_halves_are = [&](Kind kind) {
    return [this, kind](const Update& update) { return length_if_half_is(update, kind); };
  };
  const auto as_elsewhere = [&](const Update& update) { return length_as_elsewhere(update); };
  decide([&](const Update& update) { return certain_length(update); });
  decide(if_halves_are(Kind::kGradient));
  while (decide(as_elsewhere)) {
  }
  decide(if_halves_are(Kind::kParameter));
  while (decide(as_elsewhere)) {
  }
}

size_t UpdateGraph::certain_length(const Update& update) const {
  const Op& op = tables_.ops[update.row];
  const std::string_view name = tables_.strings[op.signature];
  if (contains(name, "::_foreach_addc")) {
    return op.n_inputs / 3;
  }
  if (!is_fused(name)) {
    return op.n_outputs;
  }
  size_t length = 0;  // parameters come first, then gradients
  while (length < op.n_inputs && !is_of(update, length, Kind::kGradient)) {
    ++length;
  }
  for (size_t place = length; place < 2 * length; ++place) {
    if (!is_of(update, place, Kind::kGradient)) {
      return 0;
    }
  }
  return length;
}

// Of two lists, of which exactly one has such tensors.
size_t UpdateGraph::length_if_half_is(const Update& update, Kind kind) const {
  const size_t length = tables_.ops[update.row].n_inputs / 2;
  size_t others[] = {0, 0};
  for (size_t place = 0; place < 2 * length; ++place) {
    others[place / length] += is_of(update, place, kind) ? 0 : 1;
  }
  const bool fits = (others[0] == 0 && others[1] == length) || (others[0] == length && others[1] == 0);
  return fits && length_as_elsewhere(update, true) != 0 ? length : 0;
}

// Of two lists, of which some are in other ops too.
size_t UpdateGraph::length_as_elsewhere(const Update& update, bool may_be_new) const {
  const size_t length = tables_.ops[update.row].n_inputs / 2;
  bool is_known = may_be_new;
  for (size_t place = 0; place < 2 * length; ++place) {
    const size_t elsewhere = update.nodes[place] == kNoRow ? 0 : nodes_[update.nodes[place]].list_length;
    if (elsewhere != 0 && elsewhere != length) {
      return 0;
    }
    is_known = is_known || elsewhere == length;
  }
  return is_known ? length : 0;
}

}  // namespace torchprof
