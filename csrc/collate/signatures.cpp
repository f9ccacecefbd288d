#include "collate/signatures.h"

namespace torchprof {
namespace {

constexpr int64_t kReturnsFirstInput = int64_t{1} << 62;

int64_t kind_of(const Tensor& tensor) {
  return static_cast<int64_t>(tensor.shape) << 24 | static_cast<int64_t>(static_cast<uint8_t>(tensor.dtype)) << 16 |
         static_cast<int64_t>(static_cast<uint8_t>(tensor.device_type)) << 8 | static_cast<uint8_t>(tensor.device_index);
}

template <typename TensorAt>
void add_kinds(TensorAt tensor_at, size_t n_inputs, size_t n_outputs, std::vector<int64_t>& kinds) {
  for (size_t i = 0; i < n_inputs + n_outputs; ++i) {
    const Tensor& tensor = tensor_at(i);
    const bool returned = i >= n_inputs && n_inputs != 0 && tensor.storage == tensor_at(0).storage;
    kinds.push_back(kind_of(tensor) | (returned ? kReturnsFirstInput : 0));
    if ((tensor.flags & (kNotDense | kWrapperSubclass)) != 0) {
      kinds.push_back(-1 - tensor.flags);  // no tensor's kind is negative
      kinds.push_back(tensor.bytes);
    }
  }
}

}  // namespace

void add_kinds(const Tensor* tensors, size_t n_inputs, size_t n_outputs, std::vector<int64_t>& kinds) {
  add_kinds([&](size_t i) -> const Tensor& { return tensors[i]; }, n_inputs, n_outputs, kinds);
}

void assign_signatures(Tables& tables, const std::vector<Arguments>& arguments) {
  SignatureTable known;
  auto next = arguments.begin();
  for (size_t row = 0; row < tables.ops.size(); ++row) {
    Op& op = tables.ops[row];
    Signature signature{op.signature, op.inputs, op.outputs, kNoName, kNoName, op.n_inputs, op.n_outputs};
    if (next != arguments.end() && next->op == static_cast<int32_t>(row)) {
      signature.arguments = next->inputs;
      signature.results = next->outputs;
      ++next;
    }
    const auto tensor_at = [&](size_t i) -> const Tensor& {
      return tables.tensors[tables.operands[i < op.n_inputs ? op.inputs + i : op.outputs + (i - op.n_inputs)]];
    };
    add_kinds(tensor_at, op.n_inputs, op.n_outputs, known.words(signature));
    op.signature = known.id();
    if (op.signature == tables.signatures.size()) {
      tables.signatures.push_back(signature);
    }
  }
}

}  // namespace torchprof
