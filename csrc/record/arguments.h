// The arguments of an op; and as text, for the few ops whose FLOPs depend on more than their tensors, such as convolutions.
#pragma once

#include <ATen/core/function_schema.h>
#include <ATen/core/ivalue.h>
#include <ATen/record_function.h>

#include <string>

namespace torchprof {

// The upper end of a stack that has more than the arguments.
c10::ArrayRef<const c10::IValue> arguments_on_stack(const at::RecordFunction& function, size_t count);

// What the function was given. PyTorch passes the whole stack of a boxed call, with what lies below the arguments: those of the ops around
// it, inside torch.func.
inline c10::ArrayRef<const c10::IValue> arguments_of(const at::RecordFunction& function) {
  const size_t count = function.num_inputs();
  return function.inputs().size() <= count ? function.inputs() : arguments_on_stack(function, count);
}

// JSON, one element per value: [{}, {}, null, [1, 1], false] is two tensors, None, a list of ints and a bool.
std::string arguments_text(const c10::IValue* values, size_t count);

}  // namespace torchprof
