// What a recording needs of a device: the one interface behind which every kind of device is recorded. To add a kind, implement it in
// a directory of its own and name it in recorder.cpp.
//
//   make_device_recorder ─► record_into ─► settle, take   after every step, where steps are aggregated
//                                       ─► stop, take     at the end of the recording
//
// None of these functions needs the GIL, and those that wait must be called without it: what a device waits for may need it.
#pragma once

#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>

#include "trace/device_log.h"

namespace torchprof {

class DeviceRecorder {
 public:
  DeviceRecorder() = default;
  // Stops without waiting. In a fork it leaves the device alone, which belongs to the parent.
  virtual ~DeviceRecorder() = default;
  DeviceRecorder(const DeviceRecorder&) = delete;
  DeviceRecorder& operator=(const DeviceRecorder&) = delete;

  // Records into `log` from now on. Comes after the observers of ops and modules are installed. `ops`: whether ops are recorded.
  virtual void record_into(DeviceLog& log, bool ops) = 0;

  // Compares the clock of the device with the host's, in passing. A recording calls it at every step.
  virtual void compare_clocks() = 0;

  // Waits until the device has done what was launched and has reported it. With `may_wait` false, only what is there already is
  // collected: waiting would break a graph that is being captured.
  virtual void settle(bool may_wait) noexcept = 0;

  // Settles, and records nothing from now on.
  virtual void stop(bool may_wait) noexcept = 0;

  // Empties the log. Comes after settle() or stop(), whose own runtime calls are left out. Throws std::bad_alloc, and the log is as it
  // was then.
  virtual DeviceReport take() = 0;
};

// The device cannot be recorded. Says why, and what to do instead.
struct DeviceRecorderError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// "cupti": kernels of NVIDIA GPUs. "events": intervals on devices of this c10::DeviceType. "off": nullptr. May take seconds: call it
// before the recording begins, and without the GIL. Throws DeviceRecorderError.
std::unique_ptr<DeviceRecorder> make_device_recorder(const std::string& name, int8_t device_type);

}  // namespace torchprof
