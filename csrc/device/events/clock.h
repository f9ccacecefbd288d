// The clock of one device. Its events only say how much time lies between two of them. So time is counted in nanoseconds from an event
// that is kept, the origin. A reading finds out which ticks of the host an event belongs to.
//
// Only one thread at a time may use it.
#pragma once

#include <c10/core/Event.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <cstdint>

#include "trace/device_log.h"

namespace torchprof::events {

inline constexpr auto kTimed = c10::EventFlag::BACKEND_DEFAULT;

class Clock {
 public:
  struct Times {
    int64_t start;
    int64_t end;
  };

  Clock(const c10::impl::VirtualGuardImpl& guard, c10::DeviceIndex index);

  // Waits for the device and reads the clock. While a graph is being captured it does neither, and the width of the reading is 0.
  // begin() or end() may follow, with this reading.
  DeviceClock::Reading synchronize_and_read();
  // Counts time from the latest reading.
  void begin(const DeviceClock::Reading& latest);
  // The latest reading is the end of the time that take() returns next.
  void end(const DeviceClock::Reading& latest);

  // The times of two events that the device is past. The event in `start` may be exchanged for another one.
  Times times_of(c10::Event& start, const c10::Event& end);

  // If there is an end, time is counted from it afterwards.
  DeviceClock take();

  // Destroys its events.
  void release() noexcept;

 private:
  const c10::impl::VirtualGuardImpl guard_;
  const c10::DeviceIndex index_;
  // Times are nanoseconds since the first origin. Later events replace it before a float has too few digits for the time since it.
  c10::Event origin_;
  int64_t origin_at_ = 0;
  c10::Event latest_;  // that of the latest reading
  DeviceClock clock_{};
};

}  // namespace torchprof::events
