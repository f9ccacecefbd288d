// The arguments of an op; and as text, for the few ops whose FLOPs depend on more than their tensors, such as convolutions.
#pragma once

#include <ATen/core/function_schema.h>
#include <ATen/core/ivalue.h>
#include <ATen/record_function.h>

#include <string>

namespace torchprof {

// JSON, one element per value: [{}, {}, null, [1, 1], false] is two tensors, None, a list of ints and a bool.
// What the function was given. PyTorch passes the whole stack of a boxed call, with what lies below the arguments: those of the ops around
// it, inside torch.func.
inline c10::ArrayRef<const c10::IValue> arguments_of(const at::RecordFunction& function) {
  const c10::ArrayRef<const c10::IValue> stack = function.inputs();
  const size_t count = function.num_inputs();  // 0 for a range, which may have inputs all the same
  if (stack.size() <= count || (count == 0 && !function.operator_schema())) {
    return stack;
  }
  return stack.slice(stack.size() - count);
}

std::string arguments_text(const c10::IValue* values, size_t count);

}  // namespace torchprof
