// Intervals of the devices of one type, each between a pair of events: recorded around work, read when the device is past them, and
// recorded anew. Any thread may begin and end intervals, each its own.
#pragma once

#include <c10/core/Stream.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "trace/device_log.h"

namespace torchprof {

class DeviceIntervals {
 public:
  struct Interval;
  struct Refused : std::runtime_error {  // there are no such devices, they have no events, or one has failed
    using std::runtime_error::runtime_error;
  };

  // Waits for the devices that are in use, to read their clocks. Throws Refused.
  explicit DeviceIntervals(c10::DeviceType type);
  ~DeviceIntervals();
  DeviceIntervals(const DeviceIntervals&) = delete;
  DeviceIntervals& operator=(const DeviceIntervals&) = delete;

  // Where those that were read go. There must be one before any begins.
  void record_into(DeviceLog& log) { log_ = &log; }

  c10::DeviceType type() const { return type_; }
  bool has_device(c10::DeviceIndex index) const { return static_cast<size_t>(index) < devices_.size(); }

  // On the stream that this thread uses now. nullptr: it was lost.
  Interval* begin(c10::DeviceIndex index, const Kernel& row, uint64_t generation);
  // Lost, where a recording of another generation goes on by now. The interval is not to be touched after that.
  void end(Interval& interval, uint64_t generation);
  static c10::DeviceIndex device_of(const Interval& interval);

  // Waits for the devices that were used, so that all intervals can be read, and reads their clocks once more. Where it may not wait,
  // nor where a graph is captured, it asks devices nothing.
  void settle(bool may_wait) noexcept;

  // Gives back all events. Nothing begins or ends meanwhile, nor after that.
  void release() noexcept;

  // Empties the log. Intervals that are not over belong to no later report.
  DeviceReport take();

  // A device has failed: nothing more is recorded. What it said; empty where none did.
  bool failed() const { return failed_; }
  std::string failure() const;

 private:
  using Intervals = std::list<Interval>;
  struct Device;

  void forget(Interval& interval);
  bool is_capturing() const;
  void read_finished(const std::unique_lock<std::mutex>& reader);
  void read(Device& device, Interval& interval);
  void fail() noexcept;

  const c10::DeviceType type_;
  const c10::impl::VirtualGuardImpl guard_;
  const pid_t process_ = getpid();
  std::vector<std::unique_ptr<Device>> devices_;  // by index
  DeviceLog* log_ = nullptr;

  std::atomic<bool> failed_{false};
  std::atomic<uint64_t> latest_generation_{0};
  uint64_t oldest_generation_ = 0;  // intervals of older recordings, or parts of one, are left out
  std::mutex reading_;              // held by whoever reads events
  mutable std::mutex lists_;        // held for moments, and never while a device is asked for anything
  std::optional<c10::Stream> captured_;  // the stream that was last seen being captured into a graph
  std::string failure_;
  uint64_t lost_ = 0;
};

}  // namespace torchprof
