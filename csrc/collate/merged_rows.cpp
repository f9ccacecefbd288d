// Totals::merge(). A program whose shapes, modules or names change at every step makes new rows at every step. All but the first shapes of
// an op in a module become one row:
//
//   addmm  (8, 16) (16, 4)   in `head`, forward        addmm  (8, 16) (16, 4)   in `head`, forward
//   addmm  (9, 16) (16, 4)   in `head`, forward   ──►  addmm  other shapes      in `head`, forward: sums, also of FLOPs and bytes
//   addmm  (7, 16) (16, 4)   in `head`, forward
//
// So do modules that are registered nowhere in the model and have not been called for long, most of which are no longer there: those of a
// class that a module called are one module, whose address is 0. And so do user ranges with other names than the first.
#include <algorithm>
#include <map>
#include <tuple>
#include <utility>

#include "collate/totals.h"

namespace torchprof {
namespace {

constexpr int64_t kOtherShapes = -(int64_t{1} << 62);  // no kind of a tensor: see add_kinds()
constexpr char kOtherRanges[] = "other ranges";        // also in torchprof/tables/footer.py

template <typename Total>
void add_times(Total& total, const Total& more) {
  total.min = total.count == 0 ? more.min : std::min(total.min, more.min);
  total.max = std::max(total.max, more.max);
  total.count += more.count;
  total.time += more.time;
  total.self_time += more.self_time;
}

void add_sums(KernelTotal& total, const KernelTotal& more) {
  total.min = std::min(total.min, more.min);
  total.max = std::max(total.max, more.max);
  total.count += more.count;
  total.time += more.time;
  total.bytes += more.bytes;
}

void add_sums(OpTotal& total, const OpTotal& more) {
  add_times(total, more);
  total.allocated += more.allocated;
  total.device_time += more.device_time;
  total.device_self += more.device_self;
  total.kernels += more.kernels;
}

}  // namespace

// Rows of strings, shapes and modules in the sums of before -> rows of those that are made: only of what is still in use.
class Totals::Translation {
 public:
  Translation(const Tables& before, const std::vector<uint32_t>& called, const std::unordered_set<uint64_t>& registered,
              Totals& made)
      : before_(before),
        called_(called),
        registered_(registered),
        made_(made),
        callers_(before.modules.size(), kNoRow),
        strings_(before.strings.size(), kNoName),
        shapes_(before.shapes.size(), kNoName),
        modules_(before.modules.size(), kNoName) {
    for (auto total = before.call_totals.rbegin(); total != before.call_totals.rend(); ++total) {
      callers_[total->module] = total->caller;  // the first of them counts
    }
  }

  uint32_t string(uint32_t row) {
    if (row != kNoName && strings_[row] == kNoName) {
      strings_[row] = made_.interner_.string(before_.strings[row]);
    }
    return row == kNoName ? kNoName : strings_[row];
  }

  int32_t module(int32_t row) {
    if (row == kNoRow) {
      return kNoRow;
    }
    if (modules_[row] == kNoName) {
      const Module& module = before_.modules[row];
      modules_[row] = is_other(row) ? other_module(row) : made_.interner_.module({module.address, string(module.type), 0});
      made_.called_.resize(made_.interner_.modules());
      made_.called_[modules_[row]] = latest_step_of(row);
    }
    return static_cast<int32_t>(modules_[row]);
  }

  bool is_other_range(const OpTotal& total) {
    if (total.range == 0) {
      return false;
    }
    const uint32_t name = before_.signatures[total.signature].name;
    if (ranges_.size() < made_.most_ranges()) {
      ranges_.insert(name);
    }
    const bool is_other = ranges_.count(name) == 0;
    if (is_other) {
      other_ranges_.insert(name);
    }
    return is_other;
  }

  // The name of an op, once is_other_range() was asked for all of them.
  uint32_t op(uint32_t name) { return other_ranges_.count(name) == 0 ? string(name) : made_.interner_.string(kOtherRanges); }

  // That of all user ranges whose names are not kept.
  uint32_t other_ranges() {
    Signature signature{};
    signature.name = made_.interner_.string(kOtherRanges);
    return without_tensors(signature, {});
  }

  uint32_t signature(const Signature& signature) {
    for (const uint32_t row : {signature.name, signature.arguments, signature.results}) {
      string(row);
    }
    shapes(signature.inputs, signature.n_inputs);
    shapes(signature.outputs, signature.n_outputs);
    return made_.add_signature(signature, before_, strings_, shapes_);
  }

  // That of all the shapes of an op that are merged.
  uint32_t other_shapes(uint32_t name) {
    Signature signature{};
    signature.name = string(name);
    return without_tensors(signature, {kOtherShapes});
  }

 private:
  uint32_t without_tensors(Signature signature, const std::vector<int64_t>& kinds) {
    signature.arguments = signature.results = kNoName;
    const uint32_t id = made_.known_.id(signature, kinds);
    if (id == made_.tables_.signatures.size()) {
      signature.inputs = signature.outputs = static_cast<uint32_t>(made_.tables_.operands.size());
      made_.tables_.signatures.push_back(signature);
    }
    return id;
  }

  // A module has none where memory ran out.
  uint32_t latest_step_of(int32_t row) const { return static_cast<size_t>(row) < called_.size() ? called_[row] : 0; }

  bool is_other(int32_t row) const {
    const uint64_t address = before_.modules[row].address;
    return address == 0 || (registered_.count(address) == 0 && made_.steps_ - latest_step_of(row) > made_.longest_idle());
  }

  uint32_t other_module(int32_t row) {
    const int32_t caller = module(std::exchange(callers_[row], kNoRow));
    const uint32_t type = string(before_.modules[row].type);
    const auto [found, is_new] = others_.try_emplace({type, caller}, 0);
    if (is_new) {
      found->second = made_.interner_.add_module({0, type, 0});
    }
    return found->second;
  }

  void shapes(uint32_t first, uint32_t count) {
    for (uint32_t i = first; i < first + count; ++i) {
      const uint32_t row = before_.tensors[before_.operands[i]].shape;
      if (shapes_[row] == kNoName) {
        const Shape& shape = before_.shapes[row];
        shapes_[row] = made_.interner_.shape(before_.dims.data() + shape.first, shape.ndim);
      }
    }
  }

  const Tables& before_;
  const std::vector<uint32_t>& called_;
  const std::unordered_set<uint64_t>& registered_;
  Totals& made_;
  std::vector<int32_t> callers_;                             // by module: the one whose call its first one ran in
  std::map<std::pair<uint32_t, int32_t>, uint32_t> others_;  // by class and caller
  std::unordered_set<uint32_t> ranges_;                      // names that are kept
  std::unordered_set<uint32_t> other_ranges_;                // and those that are not
  std::vector<uint32_t> strings_;
  std::vector<uint32_t> shapes_;
  std::vector<uint32_t> modules_;
};

bool Totals::is_merge_due() const {
  const size_t added = rows() - rows_settled_;
  return added > std::max(kMostNewRows, rows_settled_ / 2) || (added != 0 && bytes() > budget_ / 8 * 3);
}

void Totals::merge(const OpFigures& figures, const std::unordered_set<uint64_t>& registered) {
  const Tables before = copy({});
  for (;; shapes_kept_ /= 4) {
    Totals made(budget_);
    made.shapes_kept_ = shapes_kept_;
    made.losses_ = losses_;
    made.beside_ = beside_;
    made.steps_ = steps_;
    Translation translate(before, called_, registered, made);
    made.take_over(translate, before, figures);
    made.rows_settled_ = made.rows();
    if (shapes_kept_ == 0 || made.bytes() < budget_ / 4) {
      *this = std::move(made);
      return;
    }
  }
}

void Totals::take_over(Translation& translate, const Tables& before, const OpFigures& figures) {
  std::map<std::tuple<uint32_t, int32_t, int32_t, uint8_t, uint8_t, uint8_t>, std::unordered_set<uint32_t>> kept;
  for (size_t row = 0; row < before.op_totals.size(); ++row) {
    const OpTotal& total = before.op_totals[row];
    const Signature& signature = before.signatures[total.signature];
    OpTotal key{};
    key.module = translate.module(total.module);
    key.phase = total.phase;
    key.nested = total.nested;
    key.wrapper = total.wrapper;
    key.stack = total.stack;
    key.range = total.range;
    const bool is_other_range = translate.is_other_range(total);
    std::unordered_set<uint32_t>& shapes =
        kept[{signature.name, key.module, total.stack, total.phase, total.nested, total.wrapper}];
    const bool has_kept_shapes = total.merged == 0 && (shapes.size() < shapes_kept_ || shapes.count(total.signature) != 0);
    const bool has_other_shapes = !is_other_range && !has_kept_shapes;
    if (is_other_range) {
      key.signature = translate.other_ranges();
    } else if (has_other_shapes) {
      key.signature = translate.other_shapes(signature.name);
    } else {
      key.signature = translate.signature(signature);
      shapes.insert(total.signature);  // which several modules may have that become one
    }
    const size_t found = row_of(key);
    if (found == kNoRoom) {
      losses_.ops += static_cast<uint64_t>(total.count);
      continue;
    }
    OpTotal& sum = tables_.op_totals[found];
    add_sums(sum, total);
    if (has_other_shapes) {
      sum.merged += std::max<uint32_t>(total.merged, 1);
      sum.flops += figures.flops[row];
      sum.moved += figures.moved[row];
      sum.unknown |= figures.unknown[row];
    }
  }
  for (const CallTotal& total : before.call_totals) {
    CallTotal key{};
    key.module = static_cast<uint32_t>(translate.module(static_cast<int32_t>(total.module)));
    key.caller = translate.module(total.caller);
    key.phase = total.phase;
    key.stack = total.stack;
    const size_t found = row_of(key);
    if (found == kNoRoom) {
      losses_.module_calls += static_cast<uint64_t>(total.count);
    } else {
      add_times(tables_.call_totals[found], total);
    }
  }
  for (const KernelTotal& total : before.kernel_totals) {
    KernelTotal moved = total;
    moved.name = translate.string(total.name);
    moved.op = translate.op(total.op);
    moved.module = translate.module(total.module);
    const auto [found, is_new] = kernel_rows_.try_emplace(key_of(moved), tables_.kernel_totals.size());
    if (is_new) {
      tables_.kernel_totals.push_back(moved);
    } else {
      add_sums(tables_.kernel_totals[found->second], moved);
    }
  }
}

}  // namespace torchprof
