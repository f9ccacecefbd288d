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
#include <c10/core/Event.h>
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

#include "device_log.h"

namespace torchprof {

class EventObserver {
 public:
  enum class Around { kOps, kModuleCalls };
  struct Refused : std::runtime_error {  // there are no such devices, they have no events, or one has failed
    using std::runtime_error::runtime_error;
  };

  // Waits for the devices of this type that are in use, to read their clocks. Needs no GIL, and nor does anything here. Throws
  // Refused. At most one observer records at a time.
  explicit EventObserver(c10::DeviceType type);
  ~EventObserver();
  EventObserver(const EventObserver&) = delete;
  EventObserver& operator=(const EventObserver&) = delete;

  // Intervals are recorded from here on. Ops are when their rows are open already: call it after OpObserver is there.
  void record_into(DeviceLog& log, Around around);

  // Waits for the devices that were used, so that all intervals can be read, and reads their clocks once more. Where it may not wait,
  // nor where a graph is captured, it asks devices nothing.
  void settle(bool may_wait) noexcept;

  // No intervals from here on; settles, and gives back all events. Waits for callbacks, which may want the GIL: call it without.
  void stop(bool may_wait) noexcept;

  // Empties the log. Intervals that are not over belong to no later report.
  DeviceReport take();

  // What a device said when it failed, after which nothing more was recorded; empty where none did.
  std::string failure() const;

  // A module was called, or has returned, with these tensors, and its row is open, or closed.
  static void call_changed(const c10::TensorImpl* const* tensors, size_t count) noexcept;

  struct Interval;
  struct Callbacks;

 private:
  using Intervals = std::list<Interval>;
  struct Device;

  void begin(const void* key, c10::DeviceIndex index, const Kernel& row, uint64_t generation);
  void end(Interval& interval, bool discard);
  void forget(Interval& interval);
  bool is_capturing() const;
  void read_finished(const std::unique_lock<std::mutex>& reader);
  void read(Device& device, Interval& interval);
  DeviceClock::Reading synchronize_and_read_clock(Device& device);
  void uninstall() noexcept;
  void fail() noexcept;

  const c10::DeviceType type_;
  const c10::impl::VirtualGuardImpl guard_;
  const uint64_t id_;
  const pid_t process_ = getpid();
  std::vector<std::unique_ptr<Device>> devices_;  // by index
  DeviceLog* log_ = nullptr;
  std::optional<at::CallbackHandle> handle_;

  bool stopped_ = false;
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
