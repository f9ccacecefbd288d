// The ops of optimizers in a step of the loop, and the tensors that they use.
#pragma once

#include <cstddef>
#include <cstdint>

#include "trace/enums.h"

namespace torchprof {

inline constexpr int32_t kUnknownOwner = -1;
inline constexpr int32_t kNoOwner = -2;  // it is of several modules
inline constexpr uint32_t kNotRead = UINT32_MAX;
inline constexpr uint32_t kNoUse = UINT32_MAX;

enum class Kind : uint8_t { kParameter, kTensor, kGradient, kNumber };  // what says most about an op comes first

struct UsedTensor {  // and its views
  Kind kind = Kind::kTensor;
  bool is_number = false;  // parameters may share a learning rate
  int32_t owner = kUnknownOwner;
  int32_t gradient_of = kUnknownOwner;
  uint32_t read_by = kNotRead;   // the operand where an optimizer read it first
  size_t made_by = 0;            // how many updates had begun
  size_t list_length = 0;        // of the lists that it is in; 0: not known
  uint32_t latest_use = kNoUse;  // see Use
};

struct Use {  // of a tensor by an update: a list, the latest first
  uint32_t update;
  uint32_t before;
};

struct Update {  // an op
  int32_t row;
  uint32_t first;          // among the tensors of all updates: of its inputs, then of its outputs; kNoRow: it has no memory
  uint32_t count;          // without its outputs until it has ended
  size_t list_length = 1;  // 0: not known
  bool takes_lists = false;
  bool has_ops_inside = false;
};

}  // namespace torchprof
