// Whether the machine has this much memory to spare.
#pragma once

#include <cstdint>

namespace torchprof {

// True as well where the system does not tell. Small sizes are not looked at.
bool may_allocate(uint64_t bytes);

}  // namespace torchprof
