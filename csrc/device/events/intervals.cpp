#include "device/events/intervals.h"

#include <ATen/Context.h>
#include <ATen/detail/AcceleratorHooksInterface.h>
#include <c10/core/Event.h>

#include <string_view>
#include <utility>

#include "device/events/capture.h"
#include "device/events/clock.h"

namespace torchprof {
namespace {

constexpr size_t kReadAt = 1024;  // intervals that wait to be read, on one device
constexpr size_t kMost = 65536;   // that exist; more are lost, as when a device lags behind so far

// PyTorch's errors go on with where they come from.
std::string first_line(std::string_view text) { return std::string(text.substr(0, text.find('\n'))); }

}  // namespace

struct DeviceIntervals::Interval {
  explicit Interval(c10::DeviceType type) : start(type, kTimed), end(type, kTimed) {}

  c10::Event start;
  c10::Event end;
  Kernel row{};
  uint64_t generation = 0;
  Device* device = nullptr;
  std::optional<c10::Stream> stream;
  Intervals::iterator place;  // in the list that it is in
};

struct DeviceIntervals::Device {
  Device(const c10::impl::VirtualGuardImpl& guard, c10::DeviceIndex index) : index(index), clock(guard, index) {}

  const c10::DeviceIndex index;
  // Intervals go from one list to the next and around. What is in `idle` has events to be recorded anew.
  Intervals idle;
  Intervals open;
  Intervals waiting;  // to be over on the device as well
  size_t count = 0;
  std::atomic<bool> used{false};
  EventClock clock;  // of whoever reads events
};

DeviceIntervals::DeviceIntervals(c10::DeviceType type) try : type_(type), guard_(type) {
  if (!kTellsCapture) {
    throw Refused("this version of PyTorch cannot tell whether a graph is being captured: a newer one is needed");
  }
  if (guard_.deviceCount() == 0) {
    throw Refused("there is no device of this kind here");
  }
  const at::AcceleratorHooksInterface& hooks = at::globalContext().getAcceleratorHooksInterface(type);
  for (c10::DeviceIndex index = 0; index < guard_.deviceCount(); ++index) {
    Device& device = *devices_.emplace_back(std::make_unique<Device>(guard_, index));
    if (hooks.hasPrimaryContext(index)) {
      device.clock.begin(device.clock.synchronize_and_read());
    }
  }
} catch (const std::exception& error) {
  throw Refused(first_line(error.what()));
}

DeviceIntervals::~DeviceIntervals() {
  if (getpid() != process_) {  // a fork: the device is its parent's, and so are the events
    new std::vector(std::move(devices_));
  }
}

DeviceIntervals::Interval* DeviceIntervals::begin(c10::DeviceIndex index, const Kernel& row, uint64_t generation) {
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
        if (device.count >= kMost) {
          ++lost_;
          return nullptr;
        }
        device.idle.emplace_back(type_);
        ++device.count;
      }
      device.open.splice(device.open.end(), device.idle, device.idle.begin());
      interval = &device.open.back();
      interval->place = std::prev(device.open.end());
    }
    device.used = true;
    interval->row = row;
    interval->row.stream = static_cast<uint32_t>(stream.id());
    interval->row.device_type = static_cast<int8_t>(type_);
    interval->row.device_index = static_cast<int8_t>(index);
    interval->row.kind = static_cast<uint8_t>(Work::kInterval);
    interval->generation = generation;
    interval->device = &device;
    interval->stream = stream;
    for (uint64_t latest = latest_generation_; latest < generation && !latest_generation_.compare_exchange_weak(latest, generation);) {
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

void DeviceIntervals::end(Interval& interval, uint64_t generation) {
  try {
    if (interval.generation != generation || failed_ || is_captured(guard_, *interval.stream)) {
      return forget(interval);
    }
    interval.end.record(*interval.stream);
    bool many = false;
    {
      const std::lock_guard lock(lists_);
      Device& device = *interval.device;
      device.waiting.splice(device.waiting.end(), device.open, interval.place);
      many = device.waiting.size() % kReadAt == 0;
    }
    if (many && !is_capturing()) {
      read_finished(std::unique_lock(reading_, std::try_to_lock));
    }
  } catch (...) {
    fail();
  }
}

c10::DeviceIndex DeviceIntervals::device_of(const Interval& interval) { return interval.device->index; }

void DeviceIntervals::forget(Interval& interval) {
  const std::lock_guard lock(lists_);
  interval.device->idle.splice(interval.device->idle.end(), interval.device->open, interval.place);
  ++lost_;
}

// Events must not be asked anything meanwhile.
bool DeviceIntervals::is_capturing() const {
  std::optional<c10::Stream> captured;
  {
    const std::lock_guard lock(lists_);
    captured = captured_;
  }
  return captured.has_value() && is_captured(guard_, *captured);
}

// In order, up to the first that is not over. Without the lock, somebody else is at it.
void DeviceIntervals::read_finished(const std::unique_lock<std::mutex>& reader) {
  if (!reader.owns_lock()) {
    return;
  }
  for (const auto& each : devices_) {
    Device& device = *each;
    for (;;) {
      Intervals first;
      {
        const std::lock_guard lock(lists_);
        if (device.waiting.empty()) {
          break;
        }
        first.splice(first.begin(), device.waiting, device.waiting.begin());
      }
      const bool over = first.front().end.query();
      if (over) {
        read(device, first.front());
      }
      const std::lock_guard lock(lists_);
      if (!over) {
        device.waiting.splice(device.waiting.begin(), first);
        break;
      }
      device.idle.splice(device.idle.end(), first);
    }
  }
}

void DeviceIntervals::read(Device& device, Interval& interval) {
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

// Where a device has failed, what can still be read is.
void DeviceIntervals::settle(bool may_wait) noexcept {
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

void DeviceIntervals::release() noexcept {
  for (const auto& device : devices_) {
    lost_ += device->open.size() + device->waiting.size();
    for (Intervals* const list : {&device->idle, &device->open, &device->waiting}) {
      list->clear();
    }
    device->clock.release();
  }
}

DeviceReport DeviceIntervals::take() {
  DeviceReport report;
  const std::lock_guard reader(reading_);
  const std::lock_guard lock(lists_);
  if (log_ == nullptr) {
    return report;
  }
  report.lost = std::exchange(lost_, 0) + log_->kernels.dropped();
  report.kernels.reserve(log_->kernels.size());
  log_->kernels.drain([&](const Kernel* first, size_t count) { report.kernels.insert(report.kernels.end(), first, first + count); });
  for (const auto& device : devices_) {
    if (device->used) {
      report.clocks.push_back(device->clock.take());
    }
  }
  oldest_generation_ = latest_generation_ + 1;
  return report;
}

std::string DeviceIntervals::failure() const {
  const std::lock_guard lock(lists_);
  return failure_;
}

// Of the exception that is being handled.
void DeviceIntervals::fail() noexcept {
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

}  // namespace torchprof
