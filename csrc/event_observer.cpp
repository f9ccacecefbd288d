#include "event_observer.h"

#include <ATen/Context.h>
#include <ATen/core/function_schema.h>
#include <ATen/detail/AcceleratorHooksInterface.h>
#include <sched.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>

#include "clock.h"
#include "pretending.h"
#include "tensor_reader.h"
#include "thread_slot.h"

namespace torchprof {
namespace {

constexpr auto kTimed = c10::EventFlag::BACKEND_DEFAULT;
constexpr size_t kReadAt = 1024;  // intervals that wait to be read, on one device
constexpr size_t kMost = 65536;   // that exist; more are lost, as when a device lags behind so far
constexpr int64_t kRebaseAfter = 1'000'000'000;  // nanoseconds: devices tell times in milliseconds, as floats
constexpr int kTries = 5;

constexpr std::string_view kOnlyMake[] = {"aten::_unsafe_view", "aten::empty_like", "aten::new_empty", "aten::new_empty_strided"};

int64_t nanoseconds(double milliseconds) { return static_cast<int64_t>(std::llround(milliseconds * 1e6)); }

// What runs callbacks asks for the observer, and counts as inside for as long as it uses it: stop() takes the observer away, then
// waits until nobody is.
std::atomic<EventObserver*> current{nullptr};
std::atomic<int> inside{0};
std::atomic<pid_t> inside_of{0};  // a fork takes over a count of threads that it does not have

// Asked before it is: most ops need no more.
std::atomic<uint64_t> current_id{0};
std::atomic<int> watched_type{-1};
std::atomic<bool> watches_calls{false};

class Visit {
 public:
  Visit() {
    inside.fetch_add(1);
    observer_ = current.load();
  }
  ~Visit() { inside.fetch_sub(1); }
  Visit(const Visit&) = delete;
  Visit& operator=(const Visit&) = delete;
  EventObserver* observer() const { return observer_; }

 private:
  EventObserver* observer_;
};

// The one interval that is open on this thread. It belongs to the observer: after another has begun, it is gone.
struct Open {
  const void* key = nullptr;  // what it is of: a RecordFunction, or for module calls this thread's own mark
  uint64_t observer = 0;
  EventObserver::Interval* interval = nullptr;  // none: it was lost, and so is what runs inside
};
thread_local Open open_here;

uint64_t next_id() {
  static std::atomic<uint64_t> made{0};
  return ++made;
}

// PyTorch's errors go on with where they come from.
std::string first_line(std::string_view text) { return std::string(text.substr(0, text.find('\n'))); }

// Older versions of PyTorch cannot tell whether a stream is being captured into a graph, which an event would become a part of.
template <typename Guard>
concept TellsCapture = requires(const Guard& guard, const c10::Stream& stream) { guard.isStreamCapturing(stream); };

template <typename Guard>
bool is_captured(const Guard& guard, const c10::Stream& stream) {
  if constexpr (TellsCapture<Guard>) {
    return guard.isStreamCapturing(stream);
  }
  return true;
}

bool is_open_here(uint64_t observer) { return open_here.key != nullptr && open_here.observer == observer; }

// The index of the device of the type that is watched; -1: it is on another, or on none.
int device_index_of(const c10::TensorImpl* tensor) {
  if (!is_readable(tensor)) {
    return -1;
  }
  const c10::StorageImpl* const storage = tensor->unsafe_storage().unsafeGetStorageImpl();
  const bool watched = storage != nullptr && static_cast<int>(storage->device().type()) == watched_type.load(std::memory_order_relaxed);
  return watched ? std::max<int>(storage->device().index(), 0) : -1;
}

// Of the first that has any.
int device_index_of(c10::ArrayRef<const c10::IValue> values) {
  for (const c10::IValue& value : values) {
    int found = -1;
    if (value.isTensor()) {
      found = device_index_of(value.unsafeToTensorImpl());
    } else if (value.isTensorList() && !value.toListRef().empty()) {
      found = device_index_of(value.toListRef()[0].unsafeToTensorImpl());
    }
    if (found >= 0) {
      return found;
    }
  }
  return -1;
}

// An op that returns a view of what it was given has no work of its own; where it must copy after all, an op inside it does that.
// What has no schema is no op, but a range.
bool has_no_work(const at::RecordFunction& function) {
  thread_local std::map<std::string, bool, std::less<>> known;
  const std::string_view name = function.name();
  const auto found = known.find(name);
  if (found != known.end()) {
    return found->second;
  }
  const std::optional<c10::FunctionSchema> schema = function.operator_schema();
  const auto is_view = [](const c10::Argument& result) { return result.alias_info() != nullptr && !result.alias_info()->isWrite(); };
  const bool none = !schema.has_value() || std::find(std::begin(kOnlyMake), std::end(kOnlyMake), name) != std::end(kOnlyMake) ||
                    std::any_of(schema->returns().begin(), schema->returns().end(), is_view);
  known.emplace(name, none);
  return none;
}

}  // namespace

struct EventObserver::Interval {
  explicit Interval(c10::DeviceType type) : start(type, kTimed), end(type, kTimed) {}

  c10::Event start;
  c10::Event end;
  Kernel row{};
  uint64_t generation = 0;
  Device* device = nullptr;
  std::optional<c10::Stream> stream;
  Intervals::iterator place;  // in the list that it is in
};

struct EventObserver::Device {
  Device(c10::DeviceType type, c10::DeviceIndex index) : index(index), origin(type, kTimed), latest(type, kTimed) {}

  const c10::DeviceIndex index;
  // Intervals go from one list to the next and around. What is in `idle` has events to be recorded anew.
  Intervals idle;
  Intervals open;
  Intervals waiting;  // to be over on the device as well
  size_t count = 0;
  std::atomic<bool> used{false};
  // Times are nanoseconds since the first origin; later ones take its place, before floats have too few digits.
  c10::Event origin;
  int64_t origin_at = 0;
  c10::Event latest;  // when its clock was read last
  DeviceClock clock{};
};

// What PyTorch calls.
struct EventObserver::Callbacks {
  static std::unique_ptr<at::ObserverContext> begin(const at::RecordFunction& function) noexcept {
    try {
      if (is_open_here(current_id.load(std::memory_order_relaxed)) || is_pretending() || function.isAsync()) {
        return nullptr;
      }
      const int index = device_index_of(function.inputs());
      if (index < 0 || has_no_work(function)) {
        return nullptr;
      }
      const Visit visit;
      EventObserver* const observer = visit.observer();
      if (observer == nullptr || observer->failed_) {
        return nullptr;
      }
      Kernel row{};
      uint64_t generation = 0;
      {
        const Writing writing;
        ThreadLog* const log = writing.log();
        if (log == nullptr) {
          return nullptr;
        }
        row.op = log->row_of_innermost_op(&function);
        row.module_call = log->innermost_call();
        row.runtime_call = log->thread();
        generation = writing.generation();
      }
      if (row.op != kNoRow) {
        observer->begin(&function, static_cast<c10::DeviceIndex>(index), row, generation);
      }
    } catch (...) {  // out of memory
    }
    return nullptr;
  }

  static void end(const at::RecordFunction& function, at::ObserverContext*) noexcept {
    if (open_here.key != &function) {
      return;
    }
    const Open open = std::exchange(open_here, {});
    const Visit visit;
    EventObserver* const observer = visit.observer();
    const uint64_t generation = Writing().generation();  // 0 as well in a fork, where the observer is not to be touched
    if (observer != nullptr && observer->id_ == open.observer && open.interval != nullptr && generation != 0) {
      observer->end(*open.interval, open.interval->generation != generation);
    }
  }
};

void EventObserver::call_changed(const c10::TensorImpl* const* tensors, size_t count) noexcept {
  try {
    if (!watches_calls.load(std::memory_order_relaxed)) {
      return;
    }
    int device_index = -1;
    for (size_t i = 0; i < count && device_index < 0; ++i) {
      device_index = device_index_of(tensors[i]);
    }
    const Visit visit;
    EventObserver* const observer = visit.observer();
    if (observer == nullptr || observer->failed_) {
      return;
    }
    Kernel row{};
    uint64_t generation = 0;
    {
      const Writing writing;
      if (ThreadLog* const log = writing.log()) {
        row.op = kNoRow;
        row.module_call = log->innermost_call();
        row.runtime_call = log->thread();
        generation = writing.generation();
      }
    }
    if (is_open_here(observer->id_) && generation != 0) {
      const Open open = std::exchange(open_here, {});
      if (open.interval != nullptr) {
        device_index = device_index >= 0 ? device_index : open.interval->device->index;
        observer->end(*open.interval, open.interval->generation != generation);
      }
    }
    if (generation != 0 && row.module_call != kNoRow && device_index >= 0) {
      observer->begin(&open_here, static_cast<c10::DeviceIndex>(device_index), row, generation);
    }
  } catch (...) {  // out of memory
  }
}

EventObserver::EventObserver(c10::DeviceType type) try : type_(type), guard_(type), id_(next_id()) {
  if (inside_of.exchange(process_) != process_) {
    inside = 0;
  }
  if (!TellsCapture<decltype(guard_)>) {
    throw Refused("this version of PyTorch cannot tell whether a graph is being captured: a newer one is needed");
  }
  if (guard_.deviceCount() == 0) {
    throw Refused("there is no device of this kind here");
  }
  const at::AcceleratorHooksInterface& hooks = at::globalContext().getAcceleratorHooksInterface(type);
  for (c10::DeviceIndex index = 0; index < guard_.deviceCount(); ++index) {
    Device& device = *devices_.emplace_back(std::make_unique<Device>(type, index));
    if (hooks.hasPrimaryContext(index)) {
      device.clock.begin = synchronize_and_read_clock(device);
      std::swap(device.origin, device.latest);
    }
  }
} catch (const std::exception& error) {
  throw Refused(first_line(error.what()));
}

EventObserver::~EventObserver() {
  if (getpid() != process_) {  // a fork: the device is its parent's, and so are the events
    uninstall();
    new std::vector(std::move(devices_));
    return;
  }
  stop(false);
}

void EventObserver::record_into(DeviceLog& log, Around around) {
  log_ = &log;
  watched_type = static_cast<int>(type_);
  current_id = id_;
  current = this;
  if (around == Around::kOps) {
    handle_ = at::addGlobalCallback(
        at::RecordFunctionCallback(&Callbacks::begin, &Callbacks::end).needsInputs(true).scopes({at::RecordScope::FUNCTION}));
  } else {
    watches_calls = true;
  }
}

void EventObserver::begin(const void* key, c10::DeviceIndex index, const Kernel& row, uint64_t generation) {
  Interval* interval = nullptr;
  try {
    if (static_cast<size_t>(index) >= devices_.size()) {
      return;
    }
    Device& device = *devices_[static_cast<size_t>(index)];
    open_here = {key, id_, nullptr};
    const c10::Stream stream = guard_.getStream(c10::Device(type_, index));
    if (is_captured(guard_, stream)) {  // an event would become a node of the graph
      const std::lock_guard lock(lists_);
      captured_ = stream;
      ++lost_;
      return;
    }
    {
      const std::lock_guard lock(lists_);
      if (device.idle.empty()) {
        if (device.count >= kMost) {
          ++lost_;
          return;
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
    open_here.interval = interval;
  } catch (...) {
    if (interval != nullptr) {
      forget(*interval);
    }
    fail();
  }
}

void EventObserver::end(Interval& interval, bool discard) {
  try {
    if (discard || failed_ || is_captured(guard_, *interval.stream)) {
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

void EventObserver::forget(Interval& interval) {
  const std::lock_guard lock(lists_);
  interval.device->idle.splice(interval.device->idle.end(), interval.device->open, interval.place);
  ++lost_;
}

// Events must not be asked anything meanwhile.
bool EventObserver::is_capturing() const {
  std::optional<c10::Stream> captured;
  {
    const std::lock_guard lock(lists_);
    captured = captured_;
  }
  return captured.has_value() && is_captured(guard_, *captured);
}

// In order, up to the first that is not over. Without the lock, somebody else is at it.
void EventObserver::read_finished(const std::unique_lock<std::mutex>& reader) {
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

void EventObserver::read(Device& device, Interval& interval) {
  if (!device.origin.was_marked_for_recording()) {  // the device was not in use when the recording began
    std::swap(device.origin, interval.start);
    interval.row.start = 0;
    interval.row.end = nanoseconds(device.origin.elapsedTime(interval.end));
  } else {
    const int64_t since = nanoseconds(device.origin.elapsedTime(interval.start));
    interval.row.start = device.origin_at + since;
    interval.row.end = interval.row.start + nanoseconds(interval.start.elapsedTime(interval.end));
    if (since > kRebaseAfter) {
      std::swap(device.origin, interval.start);
      device.origin_at = interval.row.start;
    }
  }
  if (interval.generation < oldest_generation_) {
    const std::lock_guard lock(lists_);
    ++lost_;
  } else if (Kernel* const row = log_->kernels.append()) {
    *row = interval.row;
  }
}

// An event that is recorded when the device has nothing else to do is over between two readings of the host's clock.
DeviceClock::Reading EventObserver::synchronize_and_read_clock(Device& device) {
  const c10::Stream stream = guard_.getStream(c10::Device(type_, device.index));
  if (is_captured(guard_, stream)) {
    return {};  // waiting would break the graph
  }
  guard_.synchronizeDevice(device.index);
  c10::Event attempt(type_, kTimed);
  DeviceClock::Reading best{0, INT64_MAX};
  for (int tries = 0; tries < kTries; ++tries) {
    const int64_t before = ticks();
    attempt.record(stream);
    attempt.synchronize();
    const int64_t width = std::max<int64_t>(ticks() - before, 1);
    if (width < best.width) {
      best = {before + width / 2, width};
      std::swap(attempt, device.latest);
    }
  }
  return best;
}

// Where a device has failed, what can still be read is.
void EventObserver::settle(bool may_wait) noexcept {
  try {
    if (!may_wait || is_capturing()) {
      return;
    }
    const std::unique_lock reader(reading_);
    std::vector<DeviceClock::Reading> readings;
    for (const auto& device : devices_) {
      readings.push_back(device->used ? synchronize_and_read_clock(*device) : DeviceClock::Reading{});
    }
    read_finished(reader);
    for (size_t index = 0; index < devices_.size(); ++index) {
      Device& device = *devices_[index];
      if (readings[index].width != 0 && device.origin.was_marked_for_recording()) {
        device.clock.elapsed = device.origin_at + nanoseconds(device.origin.elapsedTime(device.latest));
        device.clock.end = readings[index];
      }
    }
  } catch (...) {
    fail();
  }
}

void EventObserver::uninstall() noexcept {
  if (handle_.has_value()) {
    at::removeCallback(*std::exchange(handle_, std::nullopt));
  }
  if (EventObserver* expected = this; current.compare_exchange_strong(expected, nullptr)) {
    current_id = 0;
    watched_type = -1;
    watches_calls = false;
  }
}

void EventObserver::stop(bool may_wait) noexcept {
  if (std::exchange(stopped_, true)) {
    return;
  }
  uninstall();
  while (inside.load() != 0) {
    sched_yield();
  }
  settle(may_wait);
  for (const auto& device : devices_) {
    lost_ += device->open.size() + device->waiting.size();
    for (Intervals* const list : {&device->idle, &device->open, &device->waiting}) {
      list->clear();
    }
    for (c10::Event* const event : {&device->origin, &device->latest}) {
      const c10::Event gone = std::move(*event);
    }
  }
}

DeviceReport EventObserver::take() {
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
    DeviceClock& clock = device->clock;
    if (!device->used) {
      continue;
    }
    clock.device_index = static_cast<int8_t>(device->index);
    report.clocks.push_back(clock);
    if (clock.end.width != 0) {  // from here on, time is counted from there
      clock.begin = std::exchange(clock.end, {});
      std::swap(device->origin, device->latest);
      device->origin_at = 0;
    }
  }
  oldest_generation_ = latest_generation_ + 1;
  return report;
}

std::string EventObserver::failure() const {
  const std::lock_guard lock(lists_);
  return failure_;
}

// Of the exception that is being handled.
void EventObserver::fail() noexcept {
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
