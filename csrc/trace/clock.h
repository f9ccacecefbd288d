// The cheapest monotonic clock of the machine, in ticks, and its conversion to nanoseconds. Its rate follows from two readings of
// both clocks, one at each end of a recording.
#pragma once

#include <chrono>
#include <cstdint>

#if defined(__x86_64__)
#include <x86intrin.h>
#endif

namespace torchprof {

inline int64_t steady_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

inline int64_t ticks() {
#if defined(__x86_64__)
  return static_cast<int64_t>(__rdtsc());
#elif defined(__aarch64__)
  int64_t value;
  asm volatile("mrs %0, cntvct_el0" : "=r"(value));
  return value;
#else
  return steady_ns();
#endif
}

struct ClockReading {
  int64_t ticks;
  int64_t ns;

  // The thread may be descheduled between the two clocks, so of a few tries the narrowest is kept.
  static ClockReading now() {
    ClockReading best{};
    int64_t best_width = INT64_MAX;
    for (int attempt = 0; attempt < 5; ++attempt) {
      const int64_t before = torchprof::ticks();
      const int64_t ns = steady_ns();
      const int64_t after = torchprof::ticks();
      if (after - before < best_width) {
        best_width = after - before;
        best = {before + (after - before) / 2, ns};
      }
    }
    return best;
  }
};

// ticks -> nanoseconds since `from`, on the straight line through two readings.
class TickConverter {
 public:
  TickConverter(ClockReading from, ClockReading to)
      : origin_(from.ticks),
        ns_per_tick_(to.ticks > from.ticks ? static_cast<double>(to.ns - from.ns) / static_cast<double>(to.ticks - from.ticks)
                                           : 1.0) {}

  int64_t ns(int64_t ticks) const { return static_cast<int64_t>(static_cast<double>(ticks - origin_) * ns_per_tick_); }
  double ns_per_tick() const { return ns_per_tick_; }

 private:
  int64_t origin_;
  double ns_per_tick_;
};

}  // namespace torchprof
