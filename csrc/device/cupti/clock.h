// The clocks that CUPTI's times are of. Its own is the wall's. A callback can give it another, and torch.profiler gives it the
// ticks that are ours too; that stays until the process ends, and every time it is done again, some kernels of every later
// recording come without times (pytorch/pytorch#192021). So torchprof gives it none, and tells by each time of which clock it is:
// the two are decades apart.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

namespace torchprof::cupti {

class Clock {
 public:
  // Compares wall and ticks, now. Times between two readings are translated by the straight line through them, others by the line
  // through the first and the last.
  void read();

  // In ticks, after two readings; nothing where it is of neither clock, near no reading.
  std::optional<int64_t> ticks(uint64_t time) const;

  // Ticks by which a time of the wall may be off.
  int64_t error() const;

  // All but the latest reading: for what comes after.
  void forget();

 private:
  struct Reading {
    int64_t ticks;
    int64_t wall_ns;
    int64_t width;  // ticks that reading took
  };

  std::vector<Reading> readings_;
};

}  // namespace torchprof::cupti
