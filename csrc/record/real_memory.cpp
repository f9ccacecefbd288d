#include "record/real_memory.h"

#include <algorithm>
#include <unordered_map>
#include <utility>

namespace torchprof {
namespace {

struct RealMemory {
  std::unordered_map<const void*, int64_t> blocks;
  int64_t held = 0;
  int64_t peak = 0;
};
thread_local RealMemory real;

}  // namespace

void report_real_memory(const void* address, int64_t bytes) {
  try {
    if (bytes > 0) {
      real.blocks[address] = bytes;
      real.held += bytes;
      real.peak = std::max(real.peak, real.held);
    } else if (const auto block = real.blocks.find(address); block != real.blocks.end()) {
      real.held -= block->second;
      real.blocks.erase(block);
    }
  } catch (...) {  // out of memory
  }
}

int64_t take_real_peak() { return std::exchange(real, {}).peak; }

}  // namespace torchprof
