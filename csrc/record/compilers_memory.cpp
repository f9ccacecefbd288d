#include "record/compilers_memory.h"

#include <unordered_set>

#include "record/pause.h"

namespace torchprof {
namespace {

// Those of this thread that are not freed. Leaked: a thread frees memory until it ends.
thread_local std::unordered_set<const void*>* blocks = nullptr;

}  // namespace

bool detail::is_known_of_compiler(const void* address, int64_t bytes) noexcept {
  if (bytes > 0 && is_compiling()) {
    try {
      if (blocks == nullptr) {
        blocks = new std::unordered_set<const void*>;
        are_blocks_of_compilers_known = true;
      }
      blocks->insert(address);
    } catch (...) {
    }
    return true;
  }
  return blocks != nullptr && blocks->erase(address) != 0 && bytes < 0;
}

}  // namespace torchprof
