#include "collate/nesting.h"

#include <algorithm>
#include <string_view>
#include <vector>

namespace torchprof {
namespace {

// What PyTorch calls a dispatch mode of Python in, inside the op that it is given.
constexpr std::string_view kDispatchMode = "PythonDispatchMode";

// How many elements an op writes. A view writes none. An op in place writes what it returns. An op that only allocates (empty)
// writes none.
class Writes {
 public:
  explicit Writes(const Tables& tables) : tables_(tables) {
    for (const Shape& shape : tables.shapes) {
      int64_t count = 1;
      for (uint32_t i = 0; i < shape.ndim; ++i) {
        count *= std::max<int64_t>(0, tables.dims[shape.first + i]);  // an unknown size counts nothing
      }
      elements_.push_back(count);
    }
    for (const std::string& name : tables.strings) {
      const bool allocates = name.starts_with("aten::empty") || name.starts_with("aten::new_empty");
      kinds_.push_back(allocates ? Kind::kAllocates : name.ends_with('_') ? Kind::kInPlace : Kind::kPlain);
    }
  }

  int64_t of(const Op& op) const {
    const Kind kind = kinds_[op.signature];
    int64_t count = 0;
    for (uint32_t i = 0; i < op.n_outputs && kind != Kind::kAllocates; ++i) {
      const Tensor& output = tensor(op.outputs + i);
      if (kind == Kind::kInPlace || op.n_inputs == 0 || output.storage != tensor(op.inputs).storage) {
        count += elements_[output.shape];
      }
    }
    return count;
  }

 private:
  enum class Kind : uint8_t { kPlain, kInPlace, kAllocates };

  const Tensor& tensor(uint32_t operand) const { return tables_.tensors[tables_.operands[operand]]; }

  const Tables& tables_;
  std::vector<int64_t> elements_;  // by row of shapes
  std::vector<Kind> kinds_;        // by row of strings
};

}  // namespace

// Parents come before what runs inside them.
void mark_nested(Tables& tables, const OpClasses& classes) {
  std::vector<OpClass> of_dispatcher, of_others;
  for (const std::string& name : tables.strings) {
    of_dispatcher.push_back(classes.of(name, true));
    of_others.push_back(classes.of(name, false));
  }
  const auto flags_of_inputs = [&](const Op& op) {
    uint8_t flags = 0;
    for (uint32_t i = 0; i < op.n_inputs; ++i) {
      flags |= tables.tensors[tables.operands[op.inputs + i]].flags;
    }
    return flags;
  };
  std::vector<bool> has_tangents(tables.ops.size()), below_autograd(tables.ops.size());
  for (size_t row = 0; row < tables.ops.size(); ++row) {
    uint8_t& flags = tables.ops[row].flags;
    has_tangents[row] = (flags & kHasTangents) != 0;
    below_autograd[row] = (flags & kBelowAutograd) != 0;
    flags &= static_cast<uint8_t>(~(kHasTangents | kBelowAutograd));
  }
  // An op of which a formula or the shapes do not say all is counted by what is inside it, if anything there counts.
  std::vector<bool> counted_by_inner(tables.ops.size());
  std::vector<bool> hides(tables.ops.size());  // whether ops inside it are not counted
  const auto count_by_inner = [&](int32_t row) {
    for (; row != kNoRow && !(counted_by_inner[row] && (tables.ops[row].flags & kNested) != 0); row = tables.ops[row].parent) {
      if (counted_by_inner[row]) {
        tables.ops[row].flags |= kNested;
      }
    }
  };
  // While a program is compiled, its ops run on fake tensors; what it computes is what runs on others.
  const auto is_on_meta = [&](const Op& op) {
    for (uint32_t i = 0; i < op.n_inputs; ++i) {
      if (tables.tensors[tables.operands[op.inputs + i]].device_type == kMetaDevice) {
        return true;
      }
    }
    return false;
  };
  const auto any = [&](OpClass kind, const auto& condition) {
    return std::any_of(tables.ops.begin(), tables.ops.end(), [&](const Op& op) {
      return op.scope == kFunctionScope && of_dispatcher[op.signature] == kind && condition(op);
    });
  };
  const bool compiles = any(OpClass::kCompiled, [](const Op&) { return true; }) &&
                        any(OpClass::kCounted, [&](const Op& op) { return op.n_inputs != 0 && !is_on_meta(op); });
  // A dispatch mode of Python may have the result of an op already, as selective checkpointing does: it is called and not run.
  std::vector<bool> in_mode(tables.ops.size()), runs(tables.ops.size());  // of what is inside each op: any mode, any work
  const auto mark_around = [&](std::vector<bool>& marked, int32_t row) {
    for (; row != kNoRow && !marked[row]; row = tables.ops[row].parent) {
      marked[row] = true;
    }
  };
  const Writes writes(tables);
  for (size_t row = 0; row < tables.ops.size(); ++row) {
    Op& op = tables.ops[row];
    const OpClass kind = (op.scope == kFunctionScope ? of_dispatcher : of_others)[op.signature];
    const uint8_t flags = kind == OpClass::kFree ? 0 : flags_of_inputs(op);
    // torch.func runs an op first on its wrappers, then, inside, on the tensors that are computed.
    const bool transformed = kind == OpClass::kCounted && (flags & kTransformed) != 0;
    const bool hidden = op.parent != kNoRow && (hides[op.parent] || (has_tangents[op.parent] && below_autograd[row]));
    const bool by_formula = kind == OpClass::kCounted && (flags & (kTransformed | kNotDense | kWrapperSubclass)) == 0;
    has_tangents[row] = has_tangents[row] && by_formula;
    hides[row] = hidden || (by_formula && !has_tangents[row]);
    const bool fake = compiles && kind != OpClass::kFree && is_on_meta(op);
    if (hidden || transformed || fake) {
      op.flags |= kNested;
    } else if (kind != OpClass::kFree) {
      counted_by_inner[row] = kind == OpClass::kUnknown || (kind == OpClass::kCounted && !by_formula);
      if (kind != OpClass::kCompiled) {
        count_by_inner(op.parent);
      }
    }
    const int64_t count = writes.of(op);
    if (tables.strings[op.signature] == kDispatchMode) {
      mark_around(in_mode, op.parent);
    } else if (kind != OpClass::kFree || count != 0) {
      mark_around(runs, op.parent);
    }
    if (op.parent == kNoRow || hidden) {
      continue;
    }
    if (count != 0 && 2 * count >= writes.of(tables.ops[op.parent])) {
      // This op does the work of its parent. The factor 2 excludes smaller ops on the way, such as converting a number.
      tables.ops[op.parent].flags |= kWrapper;
    }
  }
  // On meta, nothing is ever run: there, a mode that runs nothing may be the one that makes tensors fake.
  for (size_t row = 0; row < tables.ops.size(); ++row) {
    if (in_mode[row] && !runs[row] && !is_on_meta(tables.ops[row])) {
      tables.ops[row].flags |= kNested;
    }
  }
}

}  // namespace torchprof
