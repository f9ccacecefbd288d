// Kernels, copies and memsets of NVIDIA GPUs, and the runtime calls that launch them, from CUPTI's activity records.
#pragma once

#include <unistd.h>

#include <cstdint>
#include <vector>

#include "device/cupti/api.h"
#include "device/cupti/clock.h"
#include "device/recorder.h"

namespace torchprof::cupti {

class Recorder final : public DeviceRecorder {
 public:
  // CUPTI makes records from now on; they are dropped until there is a log. The first time may take seconds. Throws
  // DeviceRecorderError.
  Recorder();
  ~Recorder() override;

  void record_into(DeviceLog& log, bool ops) override;
  void compare_clocks() override { clock_.read(); }  // often, so that adjustments of the wall clock do no harm
  void settle(bool may_wait) noexcept override;
  void stop(bool may_wait) noexcept override;
  DeviceReport take() override;

 private:
  void enable_all();
  void enable(uint32_t kind);
  void select_calls() const noexcept;
  void flush() noexcept;
  uint64_t dropped() const;
  template <typename Row>
  uint64_t translate_times(std::vector<Row>& rows) const;

  const Api& api_;
  const pid_t process_ = getpid();
  std::vector<uint32_t> kinds_;  // of activity that are enabled
  bool system_thread_ids_ = false;
  int64_t settled_at_ = 0;        // ticks, when settling began
  bool waited_ = false;           // for devices, when settling
  bool buffers_missing_ = false;  // CUPTI did not return all of them
  bool stopped_ = false;
  Clock clock_;
  DeviceLog* log_ = nullptr;
};

}  // namespace torchprof::cupti
