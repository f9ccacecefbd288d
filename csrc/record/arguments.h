// The arguments of an op as text, for the few ops whose FLOPs depend on more than their tensors, such as convolutions.
#pragma once

#include <ATen/core/ivalue.h>

#include <string>

namespace torchprof {

// JSON, one element per value: [{}, {}, null, [1, 1], false] is two tensors, None, a list of ints and a bool.
std::string arguments_text(const c10::IValue* values, size_t count);

}  // namespace torchprof
