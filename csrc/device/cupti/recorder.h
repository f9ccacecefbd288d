// Kernels, copies and fills of NVIDIA GPUs, and the calls that ask for them, through CUPTI's activity records: from the moment the
// observer is made until it stops.
#pragma once

#include <unistd.h>

#include <cstdint>
#include <vector>

#include "device/cupti/api.h"
#include "device/cupti/clock.h"
#include "trace/device_log.h"

namespace torchprof {

class KernelObserver {
 public:
  // Records are made from here on, and dropped until there is a log. The first time may take seconds. Throws cupti::Error.
  KernelObserver();
  ~KernelObserver();
  KernelObserver(const KernelObserver&) = delete;
  KernelObserver& operator=(const KernelObserver&) = delete;

  void record_into(DeviceLog& log);

  // Waits for the devices, unless that may not be now, and for the reports of what they were asked for. Needs no GIL.
  void settle(bool may_wait) noexcept;

  // Often enough, and times of devices follow those of the host also where the wall clock is adjusted.
  void compare_clocks() { clock_.read(); }

  // No records are made from here on; those made are reported.
  void stop() noexcept;

  // Empties the log, but for what this thread asked for after `until`, in ticks: that was the settling.
  DeviceReport take(int64_t until);

 private:
  void enable();
  void enable(uint32_t kind);
  void watch_single_calls() const noexcept;
  uint64_t dropped() const;
  template <typename Row>
  uint64_t translate_times(std::vector<Row>& rows) const;

  const cupti::Api& api_;
  const pid_t process_ = getpid();
  std::vector<uint32_t> kinds_;  // of activity, that were enabled
  bool system_thread_ids_ = false;
  bool waited_ = false;       // for devices, when settling
  bool interrupted_ = false;  // reports were taken away
  bool stopped_ = false;
  cupti::Clock clock_;
  DeviceLog* log_ = nullptr;
};

}  // namespace torchprof
