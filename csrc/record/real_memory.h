// The real memory that is allocated on this thread while recording is paused: some kernels are run for real, to find out what they need.
#pragma once

#include <cstdint>

namespace torchprof {

// bytes > 0: a block was allocated; < 0: freed. Frees of blocks from before, by Python's garbage collector for example, are not
// counted.
void report_real_memory(const void* address, int64_t bytes);

// The most that was allocated at once since the previous call.
int64_t take_real_peak();

}  // namespace torchprof
