// The clock of one device, as its events tell it: only how long after one event another was. So time is counted in nanoseconds from
// an event that is kept, the origin, and a reading says what ticks of the host an event of the device belongs to.
//
// Whoever uses it sees to it that nobody else does.
#pragma once

#include <c10/core/Event.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <cstdint>

#include "trace/device_log.h"

namespace torchprof {

inline constexpr auto kTimed = c10::EventFlag::BACKEND_DEFAULT;

class EventClock {
 public:
  struct Times {
    int64_t start;
    int64_t end;
  };

  EventClock(const c10::impl::VirtualGuardImpl& guard, c10::DeviceIndex index);

  // Waits for the device, unless a graph is being captured: then it was not read. begin() or end() may follow.
  DeviceClock::Reading synchronize_and_read();
  // Time is counted from the reading that was made last.
  void begin(const DeviceClock::Reading& latest);
  // The reading that was made last is the end of the time that is reported next.
  void end(const DeviceClock::Reading& latest);

  // Of two events that are over. What is in `start` afterwards is an event to be recorded anew.
  Times times_of(c10::Event& start, const c10::Event& end);

  // If it has an end, time is counted from there on.
  DeviceClock take();

  // Gives back its events.
  void release() noexcept;

 private:
  const c10::impl::VirtualGuardImpl guard_;
  const c10::DeviceIndex index_;
  // Times are nanoseconds since the first origin; later ones take its place, before floats have too few digits.
  c10::Event origin_;
  int64_t origin_at_ = 0;
  c10::Event latest_;  // when the clock was read last
  DeviceClock clock_{};
};

}  // namespace torchprof
