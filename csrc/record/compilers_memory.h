// The blocks that a compiler allocated: see pause.h. Nobody counts them.
#pragma once

#include <cstdint>

#include "record/pause.h"

namespace torchprof {

namespace detail {
#if defined(__linux__)
[[gnu::tls_model("initial-exec")]]
#endif
inline thread_local bool are_blocks_of_compilers_known = false;
bool is_known_of_compiler(const void* address, int64_t bytes) noexcept;
}  // namespace detail

// Whether a report of this thread's, of an allocation or a free (bytes < 0), is of such a block. Never throws. On most threads no
// compiler has run.
inline bool is_of_compiler(const void* address, int64_t bytes) noexcept {
  return (is_compiling() || detail::are_blocks_of_compilers_known) && detail::is_known_of_compiler(address, bytes);
}

}  // namespace torchprof
