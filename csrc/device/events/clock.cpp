#include "device/events/clock.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "device/events/capture.h"
#include "trace/clock.h"

namespace torchprof::events {
namespace {

constexpr int64_t kRebaseAfter = 1'000'000'000;  // nanoseconds: devices return milliseconds as a float
constexpr int kTries = 5;

int64_t nanoseconds(double milliseconds) { return static_cast<int64_t>(std::llround(milliseconds * 1e6)); }

}  // namespace

Clock::Clock(const c10::impl::VirtualGuardImpl& guard, c10::DeviceIndex index)
    : guard_(guard), index_(index), origin_(guard.type(), kTimed), latest_(guard.type(), kTimed) {
  clock_.device_index = static_cast<int8_t>(index);
}

// If the device is idle, it passes a new event between two readings of the host's clock.
DeviceClock::Reading Clock::synchronize_and_read() {
  const c10::Stream stream = guard_.getStream(c10::Device(guard_.type(), index_));
  if (is_captured(guard_, stream)) {
    return {};  // waiting would break the graph
  }
  guard_.synchronizeDevice(index_);
  c10::Event attempt(guard_.type(), kTimed);
  DeviceClock::Reading best{0, INT64_MAX};
  for (int tries = 0; tries < kTries; ++tries) {
    const int64_t before = ticks();
    attempt.record(stream);
    attempt.synchronize();
    const int64_t width = std::max<int64_t>(ticks() - before, 1);
    if (width < best.width) {
      best = {before + width / 2, width};
      std::swap(attempt, latest_);
    }
  }
  return best;
}

void Clock::begin(const DeviceClock::Reading& latest) {
  clock_.begin = latest;
  std::swap(origin_, latest_);
}

void Clock::end(const DeviceClock::Reading& latest) {
  if (latest.width != 0 && origin_.was_marked_for_recording()) {
    clock_.elapsed = origin_at_ + nanoseconds(origin_.elapsedTime(latest_));
    clock_.end = latest;
  }
}

Clock::Times Clock::times_of(c10::Event& start, const c10::Event& end) {
  if (!origin_.was_marked_for_recording()) {  // the device was not in use when the recording began
    std::swap(origin_, start);
    return {0, nanoseconds(origin_.elapsedTime(end))};
  }
  const int64_t since = nanoseconds(origin_.elapsedTime(start));
  const int64_t from = origin_at_ + since;
  const int64_t to = from + nanoseconds(start.elapsedTime(end));
  if (since > kRebaseAfter) {
    std::swap(origin_, start);
    origin_at_ = from;
  }
  return {from, to};
}

DeviceClock Clock::take() {
  const DeviceClock taken = clock_;
  if (clock_.end.width != 0) {
    clock_.begin = std::exchange(clock_.end, {});
    std::swap(origin_, latest_);
    origin_at_ = 0;
  }
  return taken;
}

void Clock::release() noexcept {
  for (c10::Event* const event : {&origin_, &latest_}) {
    const c10::Event gone = std::move(*event);
  }
}

}  // namespace torchprof::events
