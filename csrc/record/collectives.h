// In which process group an op asks for a collective, and of which rank.
#pragma once

#include <ATen/core/ivalue.h>

#include <string>

namespace torchprof {

// {"group": "mesh_tp", "numbers": [1, 0]}: the name of the process group among the arguments, or of functional collectives, which are
// given its name, the last text; and the whole numbers, of which the first is the other rank of what is sent or received. Empty where no
// group is named, as of wait_tensor.
std::string group_text(c10::ArrayRef<const c10::IValue> arguments);

}  // namespace torchprof
