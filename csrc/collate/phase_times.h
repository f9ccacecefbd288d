// How the time of a recording and of its steps divides into phases, and the time of every op and module call without what runs inside.
//
//   main thread    forward │ (between ops)   │ optimizer │ (between ops) │ data
//   autograd's             │   backward      │           │               │
//   a step         forward │   backward      │ optimizer │     other     │ data
//
// At each moment a thread is in the innermost op or call that is open: the one that began last. What other threads do counts where the
// main thread waits for them, between its ops. While the autograd engine works on threads of its own, the range around the call of it
// has no time of its own.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "collate/attribution.h"
#include "collate/intervals.h"
#include "trace/tables.h"

namespace torchprof {

struct PhaseTimes {
  std::vector<int64_t> op_self;          // by row of ops, nanoseconds
  std::vector<int64_t> call_self;        // by row of module_calls
  std::array<int64_t, kPhases> whole{};  // of the recording, by Phase; of kOther, what is left of it
};

// Fills in the phases of the steps. `threads` says where the rows of each thread begin; `main` is PyTorch's id of the thread that
// records; `end` is that of the recording.
PhaseTimes find_phase_times(Tables& tables, const std::vector<FirstRows>& threads, uint64_t main, int64_t end);

}  // namespace torchprof
