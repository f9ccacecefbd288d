#include "device/cupti/clock.h"

#include <algorithm>
#include <ctime>

#include "trace/clock.h"

namespace torchprof::cupti {
namespace {

constexpr int64_t kNear = 40'000'000'000;  // to a reading: 10 s in ticks of 4 GHz, 40 s in nanoseconds

int64_t wall_ns() {
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  return int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

}  // namespace

void Clock::read() {
  Reading best{0, 0, INT64_MAX};
  for (int attempt = 0; attempt < 5; ++attempt) {
    const int64_t before = torchprof::ticks();
    const int64_t wall = wall_ns();
    const int64_t width = torchprof::ticks() - before;
    if (width < best.width) {
      best = {before + width / 2, wall, width};
    }
  }
  readings_.push_back(best);
}

std::optional<int64_t> Clock::ticks(uint64_t time) const {
  const Reading &first = readings_.front(), &last = readings_.back();
  const auto theirs = static_cast<int64_t>(time);
  if (theirs <= 0) {
    return std::nullopt;
  }
  if (theirs < first.wall_ns - kNear || theirs > last.wall_ns + kNear) {
    return theirs >= first.ticks - kNear && theirs <= last.ticks + kNear ? std::optional(theirs) : std::nullopt;
  }
  Reading from = first, to = last;
  if (theirs > first.wall_ns && theirs <= last.wall_ns) {
    const auto after = std::lower_bound(readings_.begin(), readings_.end(), theirs,
                                        [](const Reading& reading, int64_t time) { return reading.wall_ns < time; });
    from = *(after - 1);
    to = *after;
  }
  const double rate = to.wall_ns > from.wall_ns
                          ? static_cast<double>(to.ticks - from.ticks) / static_cast<double>(to.wall_ns - from.wall_ns)
                          : 1.0;
  return from.ticks + static_cast<int64_t>(static_cast<double>(theirs - from.wall_ns) * rate);
}

int64_t Clock::error() const {
  int64_t widest = 0;
  for (const Reading& reading : readings_) {
    widest = std::max(widest, reading.width);
  }
  return (widest + 1) / 2;
}

void Clock::forget() { readings_.erase(readings_.begin(), readings_.end() - 1); }

}  // namespace torchprof::cupti
