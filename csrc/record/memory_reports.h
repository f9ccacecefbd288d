// Whose memory a report is of, for what receives reports: CpuAllocator and MemoryObserver.
#pragma once

#include <cstdint>

#include "record/compilers_memory.h"
#include "record/pause.h"
#include "record/real_memory.h"

namespace torchprof {

// Whether it is the program's, to be recorded. That of a compiler is counted nowhere, that of kernels that are run for real by
// take_real_peak(). bytes < 0: a free.
inline bool is_of_program(const void* address, int64_t bytes) {
  if (is_of_compiler(address, bytes)) {
    return false;
  }
  if (is_paused() && !is_compiling()) {
    report_real_memory(address, bytes);
    return false;
  }
  return true;
}

}  // namespace torchprof
