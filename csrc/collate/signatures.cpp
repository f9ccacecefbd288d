#include "collate/signatures.h"

namespace torchprof {
namespace {

constexpr int64_t kReturnsFirstInput = int64_t{1} << 62;

int64_t kind_of(const Tensor& tensor) {
  return static_cast<int64_t>(tensor.shape) << 24 | static_cast<int64_t>(static_cast<uint8_t>(tensor.dtype)) << 16 |
         static_cast<int64_t>(static_cast<uint8_t>(tensor.device_type)) << 8 | static_cast<uint8_t>(tensor.device_index);
}

}  // namespace

void add_kinds(const Tensor* tensors, size_t n_inputs, size_t n_outputs, std::vector<int64_t>& kinds) {
  for (size_t i = 0; i < n_inputs + n_outputs; ++i) {
    const bool returned = i >= n_inputs && n_inputs != 0 && tensors[i].storage == tensors[0].storage;
    kinds.push_back(kind_of(tensors[i]) | (returned ? kReturnsFirstInput : 0));
    if ((tensors[i].flags & (kNotDense | kWrapperSubclass)) != 0) {
      kinds.push_back(-1 - tensors[i].flags);  // no tensor's kind is negative
      kinds.push_back(tensors[i].bytes);
    }
  }
}

void assign_signatures(Tables& tables, const std::vector<Arguments>& arguments) {
  SignatureTable known;
  std::vector<Tensor> tensors;
  std::vector<int64_t> kinds;
  auto next = arguments.begin();
  for (size_t row = 0; row < tables.ops.size(); ++row) {
    Op& op = tables.ops[row];
    Signature signature{op.signature, op.inputs, op.outputs, kNoName, kNoName, op.n_inputs, op.n_outputs};
    if (next != arguments.end() && next->op == static_cast<int32_t>(row)) {
      signature.arguments = next->inputs;
      signature.results = next->outputs;
      ++next;
    }
    tensors.clear();
    for (uint32_t i = 0; i < op.n_inputs; ++i) {
      tensors.push_back(tables.tensors[tables.operands[op.inputs + i]]);
    }
    for (uint32_t i = 0; i < op.n_outputs; ++i) {
      tensors.push_back(tables.tensors[tables.operands[op.outputs + i]]);
    }
    kinds.clear();
    add_kinds(tensors.data(), op.n_inputs, op.n_outputs, kinds);
    op.signature = known.id(signature, kinds);
    if (op.signature == tables.signatures.size()) {
      tables.signatures.push_back(signature);
    }
  }
}

}  // namespace torchprof
