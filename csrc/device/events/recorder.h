// How long a device was active for an op, measured with the events that every device of PyTorch has. One event is recorded before the
// op and one after it; the time between the two, on the device's clock, is an interval. Used where CUPTI is not available, and for
// devices that are not NVIDIA's.
//
//   host     ──[ aten::linear          ]──[ aten::relu ]──────        aten::addmm inside aten::linear has no interval of its own
//   stream   ──·──────[ addmm kernel ]·──·[ kernel ]·─────────        an interval is the time between two dots, waiting included
//
// If ops are not recorded, intervals belong to module calls: from one begin or end of a call to the next.
#pragma once

#include <ATen/record_function.h>
#include <unistd.h>

#include <cstdint>
#include <optional>

#include "device/events/intervals.h"
#include "device/recorder.h"

namespace torchprof::events {

// At most one recorder records at a time.
class Recorder final : public DeviceRecorder {
 public:
  // Waits for the devices of this type that are in use, to read their clocks. Throws DeviceRecorderError.
  explicit Recorder(c10::DeviceType type);
  ~Recorder() override;

  void record_into(DeviceLog& log, bool ops) override;
  void compare_clocks() override {}  // settling does it: it needs a device that is idle
  void settle(bool may_wait) noexcept override { intervals_.settle(may_wait); }
  void stop(bool may_wait) noexcept override;  // waits for callbacks too, which may wait for the GIL
  DeviceReport take() override { return intervals_.take(); }

 private:
  struct Callbacks;

  void begin(const void* key, c10::DeviceIndex index, const Kernel& row, uint64_t generation);
  void uninstall() noexcept;

  Intervals intervals_;
  const uint64_t id_;
  const pid_t process_ = getpid();
  std::optional<at::CallbackHandle> handle_;
  bool stopped_ = false;
};

}  // namespace torchprof::events
