// Intervals on the devices of one type. Each lies between two events, which are recorded on a stream, read when the device is past
// them, and then used again. Any thread may begin and end intervals; each interval belongs to one thread.
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
#include <string>
#include <vector>

#include "trace/device_log.h"

namespace torchprof::events {

class Intervals {
 public:
  struct Interval;

  // Waits for the devices that are in use, to read their clocks. Throws DeviceRecorderError if there are no such devices, if they have
  // no events, or if one fails.
  explicit Intervals(c10::DeviceType type);
  ~Intervals();
  Intervals(const Intervals&) = delete;
  Intervals& operator=(const Intervals&) = delete;

  // Where intervals that were read are written. Must be called before any interval begins.
  void record_into(DeviceLog& log) { log_ = &log; }

  c10::DeviceType type() const { return type_; }
  bool has_device(c10::DeviceIndex index) const { return static_cast<size_t>(index) < devices_.size(); }

  // Begins an interval on the current stream of this thread. nullptr: it was lost.
  Interval* begin(c10::DeviceIndex index, const Kernel& row, uint64_t generation);
  // Ends it, after which it must not be used. It is lost if it began in another generation: see record/thread_slot.h.
  void end(Interval& interval, uint64_t generation);
  static c10::DeviceIndex device_of(const Interval& interval);

  // Waits for the devices that were used, reads all intervals and the clocks of these devices. If it may not wait, or if a graph is
  // being captured, it does nothing.
  void settle(bool may_wait) noexcept;

  // Destroys all events. Nothing may begin or end meanwhile or afterwards.
  void release() noexcept;

  // Empties the log. Intervals that have not ended are not part of any later report.
  DeviceReport take();

  // Whether a device has failed. Nothing is recorded afterwards.
  bool failed() const { return failed_; }

 private:
  using List = std::list<Interval>;
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
  uint64_t oldest_generation_ = 0;       // intervals of older generations are left out
  std::mutex reading_;                   // held while events are read
  mutable std::mutex lists_;             // held briefly, and never while a device is called
  std::optional<c10::Stream> captured_;  // the stream that was last seen being captured into a graph
  std::string failure_;
  uint64_t lost_ = 0;
};

}  // namespace torchprof::events
