// How long a device was at work for an op, through the events that every device of PyTorch has: one is recorded before the op and
// one after it, and the time between the two, on the device's clock, is an interval. Where CUPTI cannot be had, and for devices
// that have none.
//
//   host     ──[ aten::linear          ]──[ aten::relu ]──────        aten::addmm inside aten::linear has none of its own
//   stream   ──·──────[ addmm kernel ]·──·[ kernel ]·─────────        what is between the dots, waiting included
//
// Where ops are not recorded, intervals are of module calls: from one beginning or end of a call to the next.
#pragma once

#include <ATen/record_function.h>
#include <unistd.h>

#include <cstdint>
#include <optional>
#include <string>

#include "device/events/intervals.h"
#include "trace/device_log.h"

namespace torchprof {

class EventObserver {
 public:
  enum class Around { kOps, kModuleCalls };
  using Refused = DeviceIntervals::Refused;

  // Waits for the devices of this type that are in use, to read their clocks. Needs no GIL, and nor does anything here. Throws
  // Refused. At most one observer records at a time.
  explicit EventObserver(c10::DeviceType type);
  ~EventObserver();
  EventObserver(const EventObserver&) = delete;
  EventObserver& operator=(const EventObserver&) = delete;

  // Intervals are recorded from here on. Ops are when their rows are open already: call it after OpObserver is there.
  void record_into(DeviceLog& log, Around around);

  // As those of DeviceIntervals.
  void settle(bool may_wait) noexcept { intervals_.settle(may_wait); }
  DeviceReport take() { return intervals_.take(); }
  std::string failure() const { return intervals_.failure(); }

  // No intervals from here on; settles, and gives back all events. Waits for callbacks, which may want the GIL: call it without.
  void stop(bool may_wait) noexcept;

  // A module was called, or has returned, with these tensors, and its row is open, or closed.
  static void call_changed(const c10::TensorImpl* const* tensors, size_t count) noexcept;

 private:
  struct Callbacks;

  void begin(const void* key, c10::DeviceIndex index, const Kernel& row, uint64_t generation);
  void uninstall() noexcept;

  DeviceIntervals intervals_;
  const uint64_t id_;
  const pid_t process_ = getpid();
  std::optional<at::CallbackHandle> handle_;
  bool stopped_ = false;
};

}  // namespace torchprof
