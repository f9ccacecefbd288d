// The blocks that a compiler allocated: see pause.h. Nobody counts them.
#pragma once

#include <cstdint>

namespace torchprof {

// Whether a report of this thread's, of an allocation or a free (bytes < 0), is of such a block. Never throws.
bool is_of_compiler(const void* address, int64_t bytes) noexcept;

}  // namespace torchprof
