#include "device/events/intervals.h"

#include <ATen/Context.h>
#include <ATen/detail/AcceleratorHooksInterface.h>
#include <c10/core/Event.h>

#include <string_view>
#include <utility>

#include "device/events/capture.h"
#include "device/events/clock.h"
#include "device/recorder.h"

namespace torchprof::events {
namespace {

// Of one device:
constexpr size_t kReadAt = 1024;         // so many intervals wait before the finished ones are read
constexpr size_t kMaxIntervals = 65536;  // if the device lags behind further than this, intervals are lost

// The lines after the first of an error of PyTorch say where it was thrown.
std::string first_line(std::string_view text) { return std::string(text.substr(0, text.find('\n'))); }

}  // namespace

struct Intervals::Interval {
  explicit Interval(c10::DeviceType type) : start(type, kTimed), end(type, kTimed) {}

  c10::Event start;
  c10::Event end;
  Kernel row{};
  uint64_t generation = 0;
  Device* device = nullptr;
  std::optional<c10::Stream> stream;
  List::iterator position;  // in the list that it is in
};

struct Intervals::Device {
  Device(const c10::impl::VirtualGuardImpl& guard, c10::DeviceIndex index) : index(index), clock(guard, index) {}

  const c10::DeviceIndex index;
  // Intervals move from one list to the next, and from the last to the first.
  List idle;     // not in use
  List open;     // begun
  List waiting;  // ended on the host, but maybe not on the device
  size_t count = 0;
  std::atomic<bool> used{false};
  Clock clock;  // guarded by `reading_`
};

Intervals::Intervals(c10::DeviceType type) try : type_(type), guard_(type) {
  if (!kTellsCapture) {
    throw DeviceRecorderError("this version of PyTorch cannot tell whether a graph is being captured: a newer one is needed");
  }
  if (guard_.deviceCount() == 0) {
    throw DeviceRecorderError("there is no device of this kind here");
  }
  const at::AcceleratorHooksInterface& hooks = at::globalContext().getAcceleratorHooksInterface(type);
  for (c10::DeviceIndex index = 0; index < guard_.deviceCount(); ++index) {
    Device& device = *devices_.emplace_back(std::make_unique<Device>(guard_, index));
    if (hooks.hasPrimaryContext(index)) {
      device.clock.begin(device.clock.synchronize_and_read());
    }
  }
} catch (const std::exception& error) {
  throw DeviceRecorderError(first_line(error.what()));
}

Intervals::~Intervals() {
  if (getpid() != process_) {  // a fork: the events belong to its parent, so they are leaked
    new std::vector(std::move(devices_));
  }
}

Intervals::Interval* Intervals::begin(c10::DeviceIndex index, const Kernel& row, uint64_t generation) {
  Interval* interval = nullptr;
  try {
    Device& device = *devices_[static_cast<size_t>(index)];
    const c10::Stream stream = guard_.getStream(c10::Device(type_, index));
    if (is_captured(guard_, stream)) {  // an event would become a node of the graph
      const std::lock_guard lock(lists_);
      captured_ = stream;
      ++lost_;
      return nullptr;
    }
    {
      const std::lock_guard lock(lists_);
      if (device.idle.empty()) {
        if (device.count >= kMaxIntervals) {
          ++lost_;
          return nullptr;
        }
        device.idle.emplace_back(type_);
        ++device.count;
      }
      device.open.splice(device.open.end(), device.idle, device.idle.begin());
      interval = &device.open.back();
      interval->position = std::prev(device.open.end());
    }
    device.used = true;
    interval->row = row;
    interval->row.stream = static_cast<uint32_t>(stream.id());
    interval->row.device_type = static_cast<int8_t>(type_);
    interval->row.device_index = static_cast<int8_t>(index);
    interval->row.kind = static_cast<uint8_t>(Activity::kInterval);
    interval->generation = generation;
    interval->device = &device;
    interval->stream = stream;
    for (uint64_t latest = latest_generation_;
         latest < generation && !latest_generation_.compare_exchange_weak(latest, generation);) {
    }
    interval->start.record(stream);
    return interval;
  } catch (...) {
    if (interval != nullptr) {
      forget(*interval);
    }
    fail();
    return nullptr;
  }
}

void Intervals::end(Interval& interval, uint64_t generation) {
  try {
    if (interval.generation != generation || failed_ || is_captured(guard_, *interval.stream)) {
      return forget(interval);
    }
    interval.end.record(*interval.stream);
    bool many = false;
    {
      const std::lock_guard lock(lists_);
      Device& device = *interval.device;
      device.waiting.splice(device.waiting.end(), device.open, interval.position);
      many = device.waiting.size() % kReadAt == 0;
    }
    if (many && !is_capturing()) {
      read_finished(std::unique_lock(reading_, std::try_to_lock));
    }
  } catch (...) {
    fail();
  }
}

c10::DeviceIndex Intervals::device_of(const Interval& interval) { return interval.device->index; }

void Intervals::forget(Interval& interval) {
  const std::lock_guard lock(lists_);
  interval.device->idle.splice(interval.device->idle.end(), interval.device->open, interval.position);
  ++lost_;
}

// While a graph is captured, events must not be queried.
bool Intervals::is_capturing() const {
  std::optional<c10::Stream> captured;
  {
    const std::lock_guard lock(lists_);
    captured = captured_;
  }
  return captured.has_value() && is_captured(guard_, *captured);
}

// Reads intervals in order, up to the first that has not ended on the device. Does nothing without the lock: another thread reads.
void Intervals::read_finished(const std::unique_lock<std::mutex>& reader) {
  if (!reader.owns_lock()) {
    return;
  }
  for (const auto& each : devices_) {
    Device& device = *each;
    for (;;) {
      List first;
      {
        const std::lock_guard lock(lists_);
        if (device.waiting.empty()) {
          break;
        }
        first.splice(first.begin(), device.waiting, device.waiting.begin());
      }
      const bool ended = first.front().end.query();
      if (ended) {
        read(device, first.front());
      }
      const std::lock_guard lock(lists_);
      if (!ended) {
        device.waiting.splice(device.waiting.begin(), first);
        break;
      }
      device.idle.splice(device.idle.end(), first);
    }
  }
}

void Intervals::read(Device& device, Interval& interval) {
  const auto [start, end] = device.clock.times_of(interval.start, interval.end);
  interval.row.start = start;
  interval.row.end = end;
  if (interval.generation < oldest_generation_) {
    const std::lock_guard lock(lists_);
    ++lost_;
  } else if (Kernel* const row = log_->kernels.append()) {
    *row = interval.row;
  }
}

// Also after a device has failed: the others can still be read.
void Intervals::settle(bool may_wait) noexcept {
  try {
    if (!may_wait || is_capturing()) {
      return;
    }
    const std::unique_lock reader(reading_);
    std::vector<DeviceClock::Reading> readings;
    for (const auto& device : devices_) {
      readings.push_back(device->used ? device->clock.synchronize_and_read() : DeviceClock::Reading{});
    }
    read_finished(reader);
    for (size_t index = 0; index < devices_.size(); ++index) {
      devices_[index]->clock.end(readings[index]);
    }
  } catch (...) {
    fail();
  }
}

void Intervals::release() noexcept {
  for (const auto& device : devices_) {
    lost_ += device->open.size() + device->waiting.size();
    for (List* const list : {&device->idle, &device->open, &device->waiting}) {
      list->clear();
    }
    device->clock.release();
  }
}

DeviceReport Intervals::take() {
  DeviceReport report;
  const std::lock_guard reader(reading_);
  const std::lock_guard lock(lists_);
  report.failure = failure_;
  if (log_ == nullptr) {
    return report;
  }
  report.kernels.reserve(log_->kernels.size());
  report.clocks.reserve(devices_.size());
  // Nothing fails from here on.
  report.lost = std::exchange(lost_, 0) + log_->kernels.dropped();
  log_->kernels.drain(
      [&](const Kernel* first, size_t count) { report.kernels.insert(report.kernels.end(), first, first + count); });
  for (const auto& device : devices_) {
    if (device->used) {
      report.clocks.push_back(device->clock.take());
    }
  }
  oldest_generation_ = latest_generation_ + 1;
  return report;
}

// Keeps the message of the exception that is being handled.
void Intervals::fail() noexcept {
  if (failed_.exchange(true)) {
    return;
  }
  try {
    std::string what = "an unknown error";
    try {
      throw;
    } catch (const std::exception& error) {
      what = first_line(error.what());
    } catch (...) {
    }
    const std::lock_guard lock(lists_);
    failure_ = what;
  } catch (...) {  // out of memory
  }
}

}  // namespace torchprof::events
