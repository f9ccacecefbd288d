#include "collate/nesting.h"

#include <algorithm>
#include <vector>

namespace torchprof {
namespace {

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
void mark_nested(Tables& tables, const OpNames& counted_ops) {
  std::vector<bool> counted;
  for (const std::string& name : tables.strings) {
    counted.push_back(counted_ops.count(name) != 0);
  }
  // torch.func, and subclasses around other tensors, run an op first on the wrappers, then, inside, on what they wrap.
  const auto is_transformed = [&](const Op& op) {
    for (uint32_t i = 0; i < op.n_inputs; ++i) {
      if ((tables.tensors[tables.operands[op.inputs + i]].flags & (kTransformed | kWrapperSubclass)) != 0) {
        return true;
      }
    }
    return false;
  };
  const Writes writes(tables);
  std::vector<bool> hides(tables.ops.size());  // whether ops inside it are not counted
  for (size_t row = 0; row < tables.ops.size(); ++row) {
    Op& op = tables.ops[row];
    const bool hidden = op.parent != kNoRow && hides[op.parent];
    const bool transformed = counted[op.signature] && is_transformed(op);
    hides[row] = hidden || (counted[op.signature] && !transformed);
    if (hidden || transformed) {
      op.flags |= kNested;
    }
    if (op.parent == kNoRow || hidden) {
      continue;
    }
    if (const int64_t count = writes.of(op); count != 0 && 2 * count >= writes.of(tables.ops[op.parent])) {
      // This op does the work of its parent. The factor 2 excludes smaller ops on the way, such as converting a number.
      tables.ops[op.parent].flags |= kWrapper;
    }
  }
}

}  // namespace torchprof
