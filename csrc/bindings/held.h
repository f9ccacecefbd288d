// The memory that the modules of a model hold, for a recording that begins or ends.
#pragma once

#include <vector>

#include "trace/tables.h"

namespace torchprof::bindings {

// For Python it is opaque but for the figures that tests look at.
struct HeldByModel {
  std::vector<Held> rows;
};

}  // namespace torchprof::bindings
