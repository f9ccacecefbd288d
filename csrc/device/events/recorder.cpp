#include "device/events/recorder.h"

#include <ATen/core/function_schema.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <map>
#include <string>
#include <string_view>
#include <utility>

#include "record/pause.h"
#include "record/tensor_reader.h"
#include "record/thread_slot.h"

namespace torchprof {
namespace {

constexpr std::string_view kOnlyMake[] = {"aten::_unsafe_view", "aten::empty_like", "aten::new_empty", "aten::new_empty_strided"};

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
  DeviceIntervals::Interval* interval = nullptr;  // none: it was lost, and so is what runs inside
};
thread_local Open open_here;

uint64_t next_id() {
  static std::atomic<uint64_t> made{0};
  return ++made;
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
      if (observer == nullptr || observer->intervals_.failed()) {
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
      observer->intervals_.end(*open.interval, generation);
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
    if (observer == nullptr || observer->intervals_.failed()) {
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
        device_index = device_index >= 0 ? device_index : DeviceIntervals::device_of(*open.interval);
        observer->intervals_.end(*open.interval, generation);
      }
    }
    if (generation != 0 && row.module_call != kNoRow && device_index >= 0) {
      observer->begin(&open_here, static_cast<c10::DeviceIndex>(device_index), row, generation);
    }
  } catch (...) {  // out of memory
  }
}

void EventObserver::begin(const void* key, c10::DeviceIndex index, const Kernel& row, uint64_t generation) {
  if (intervals_.has_device(index)) {
    open_here = {key, id_, nullptr};  // before it begins: what runs meanwhile has none of its own
    open_here.interval = intervals_.begin(index, row, generation);
  }
}

EventObserver::EventObserver(c10::DeviceType type) : intervals_(type), id_(next_id()) {
  if (inside_of.exchange(process_) != process_) {
    inside = 0;
  }
}

EventObserver::~EventObserver() {
  if (getpid() == process_) {
    stop(false);
  } else {  // a fork
    uninstall();
  }
}

void EventObserver::record_into(DeviceLog& log, Around around) {
  intervals_.record_into(log);
  watched_type = static_cast<int>(intervals_.type());
  current_id = id_;
  current = this;
  if (around == Around::kOps) {
    handle_ = at::addGlobalCallback(
        at::RecordFunctionCallback(&Callbacks::begin, &Callbacks::end).needsInputs(true).scopes({at::RecordScope::FUNCTION}));
  } else {
    watches_calls = true;
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
  intervals_.settle(may_wait);
  intervals_.release();
}

}  // namespace torchprof
