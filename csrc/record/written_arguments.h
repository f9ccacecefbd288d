// Which arguments an op writes to, by the schema of its operator.
#pragma once

#include <ATen/record_function.h>

#include <cstdint>
#include <vector>

namespace torchprof {

struct WrittenArguments {
  std::vector<uint16_t> rows;  // of tensors and lists of tensors
  int32_t condition = -1;      // row of a flag: nothing is written where it is false
  bool contents = true;        // false: sizes, strides or flags change, but no element
  bool empty() const { return rows.empty(); }
};

// Found once for each operator, thread and pass. Valid until an operator is removed, so not in another pass.
const WrittenArguments& written_arguments(const at::RecordFunction& function, uint64_t pass);

}  // namespace torchprof
