// The clock of CUPTI's times. By default it is the wall clock. A callback can replace it, and torch.profiler sets one that returns
// the same ticks that torchprof uses. It stays set until the process ends, and each time it is set again, some kernels of every later
// recording come without times (pytorch/pytorch#192021). So torchprof sets no callback, and decides for each time which of the two
// clocks it belongs to: their values are far apart.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

namespace torchprof::cupti {

class Clock {
 public:
  // Compares wall clock and ticks, now. Times between two readings are translated by the straight line through the two, other times
  // by the line through the first and the last reading.
  void read();

  // The time in ticks. Needs two readings. Nothing if the time is near the readings of neither clock.
  std::optional<int64_t> ticks(uint64_t time) const;

  // Ticks by which a translated time may be off.
  int64_t error() const;

  // Forgets all readings but the latest.
  void forget();

 private:
  struct Reading {
    int64_t ticks;
    int64_t wall_ns;
    int64_t width;  // ticks that the reading took
  };

  std::vector<Reading> readings_;
};

}  // namespace torchprof::cupti
