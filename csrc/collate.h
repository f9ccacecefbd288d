// Logs -> tables. Pure: knows no observer, no Python and no PyTorch.
//
//   thread 0: ops 0..n      ids local to the thread,      ┐      one table each, threads one after the other,
//   thread 1: ops 0..m      ticks                         ├──►   ids of the whole trace, nanoseconds,
//   ...                                                   ┘      backward ops joined to forward module calls
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "clock.h"
#include "tables.h"
#include "thread_log.h"

namespace torchprof {

struct NamedTime {
  int64_t ticks;
  std::string name;
};

// Empties the logs.
Tables collate(std::vector<std::unique_ptr<ThreadLog>>& logs, const std::vector<NamedTime>& marks,
               const TickConverter& clock);

}  // namespace torchprof
