#include "collate/list_lengths.h"

namespace torchprof {
namespace {

bool contains(std::string_view name, std::string_view part) { return name.find(part) != std::string_view::npos; }
bool is_fused(std::string_view name) { return contains(name, "::_fused_"); }

class ListLengths {
 public:
  ListLengths(const Tables& tables, const std::vector<int32_t>& used, std::vector<Update>& updates,
              std::vector<UsedTensor>& tensors)
      : tables_(tables), used_(used), tensors_(tensors) {
    for (Update& update : updates) {
      if (update.takes_lists) {
        update.list_length = 0;
        const Op& op = tables.ops[update.row];
        const bool runs_inside = update.has_ops_inside && !is_fused(name(op));  // a fused op only reads numbers there
        if (!runs_inside && (op.flags & kTruncated) == 0) {
          in_question_.push_back(&update);
        }
      }
    }
  }

  // The most certain first, as what is known of a list counts in other ops.
  void find() {
    decide([&](const Update& update) { return certain(update); });
    decide([&](const Update& update) { return if_half_is(Kind::kGradient, update); });
    while (decide([&](const Update& update) { return as_elsewhere(update); })) {
    }
    decide([&](const Update& update) { return if_half_is(Kind::kParameter, update); });
    while (decide([&](const Update& update) { return as_elsewhere(update); })) {
    }
  }

 private:
  template <typename LengthOf>
  bool decide(LengthOf length_of) {
    bool found = false;
    for (Update* const update : in_question_) {
      const size_t length = update->list_length == 0 ? length_of(*update) : 0;
      if (length == 0) {
        continue;
      }
      found = true;
      update->list_length = length;
      const size_t inputs = tables_.ops[update->row].n_inputs;
      for (size_t place = 0; place < update->count; ++place) {
        const bool is_in_list = place >= inputs || place < inputs / length * length;  // numbers may come after them
        if (const int32_t tensor = tensor_at(*update, place); tensor != kNoRow && is_in_list) {
          tensors_[tensor].list_length = length;
        }
      }
    }
    return found;
  }

  size_t certain(const Update& update) const {
    const Op& op = tables_.ops[update.row];
    if (contains(name(op), "::_foreach_addc")) {
      return op.n_inputs / 3;
    }
    if (!is_fused(name(op))) {
      return op.n_outputs;
    }
    size_t length = 0;  // parameters come first, then gradients
    while (length < op.n_inputs && !is_of(Kind::kGradient, update, length)) {
      ++length;
    }
    for (size_t place = length; place < 2 * length; ++place) {
      if (!is_of(Kind::kGradient, update, place)) {
        return 0;
      }
    }
    return length;
  }

  // Of two lists, of which exactly one has such tensors.
  size_t if_half_is(Kind kind, const Update& update) const {
    const size_t length = tables_.ops[update.row].n_inputs / 2;
    size_t count[] = {0, 0};
    for (size_t place = 0; place < 2 * length; ++place) {
      count[place / length] += is_of(kind, update, place) ? 1 : 0;
    }
    const bool is_half = (count[0] == length && count[1] == 0) || (count[0] == 0 && count[1] == length);
    return is_half && !contradicts(update, length) ? length : 0;
  }

  // Of two lists, of which one is known from other ops.
  size_t as_elsewhere(const Update& update) const {
    const size_t length = tables_.ops[update.row].n_inputs / 2;
    for (size_t place = 0; place < 2 * length; ++place) {
      if (length_elsewhere(update, place) == length) {
        return contradicts(update, length) ? 0 : length;
      }
    }
    return 0;
  }

  bool contradicts(const Update& update, size_t length) const {
    for (size_t place = 0; place < 2 * length; ++place) {
      if (const size_t elsewhere = length_elsewhere(update, place); elsewhere != 0 && elsewhere != length) {
        return true;
      }
    }
    return false;
  }

  size_t length_elsewhere(const Update& update, size_t place) const {
    const int32_t tensor = tensor_at(update, place);
    return tensor == kNoRow ? 0 : tensors_[tensor].list_length;
  }
  bool is_of(Kind kind, const Update& update, size_t place) const {
    const int32_t tensor = place < update.count ? tensor_at(update, place) : kNoRow;
    return tensor != kNoRow && tensors_[tensor].kind == kind;
  }
  int32_t tensor_at(const Update& update, size_t place) const { return used_[update.first + place]; }
  std::string_view name(const Op& op) const { return tables_.strings[op.signature]; }

  const Tables& tables_;
  const std::vector<int32_t>& used_;
  std::vector<UsedTensor>& tensors_;
  std::vector<Update*> in_question_;
};

}  // namespace

bool takes_lists(std::string_view op) { return contains(op, "::_foreach_") || is_fused(op); }

void find_list_lengths(const Tables& tables, const std::vector<int32_t>& used, std::vector<Update>& updates,
                       std::vector<UsedTensor>& tensors) {
  ListLengths(tables, used, updates, tensors).find();
}

}  // namespace torchprof
