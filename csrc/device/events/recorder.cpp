#include "device/events/recorder.h"

#include <ATen/core/function_schema.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <map>
#include <string>
#include <string_view>
#include <utility>

#include "record/arguments.h"
#include "record/module_observer.h"
#include "record/pause.h"
#include "record/tensor_reader.h"
#include "record/thread_slot.h"

namespace torchprof::events {
namespace {

// Ops that only allocate or return a view, although their schema does not say so.
constexpr std::string_view kWithoutKernel[] = {"aten::_unsafe_view", "aten::empty_like", "aten::new_empty",
                                               "aten::new_empty_strided"};

// A callback increments `users` for as long as it uses the current recorder. stop() first sets `current` to nullptr, then waits until
// `users` is 0.
std::atomic<Recorder*> current{nullptr};
std::atomic<int> users{0};
std::atomic<pid_t> users_of{0};  // the process that `users` counts threads of: a fork does not have its parent's threads

// What callbacks check first, because most ops need nothing else.
std::atomic<uint64_t> current_id{0};
std::atomic<int> current_type{-1};

class RecorderUse {
 public:
  RecorderUse() {
    users.fetch_add(1);
    recorder_ = current.load();
  }
  ~RecorderUse() { users.fetch_sub(1); }
  RecorderUse(const RecorderUse&) = delete;
  RecorderUse& operator=(const RecorderUse&) = delete;
  Recorder* recorder() const { return recorder_; }

 private:
  Recorder* recorder_;
};

// The one interval that is open on this thread. It belongs to the recorder with this id, and is gone if there is another one now.
struct Open {
  const void* key = nullptr;  // what it belongs to: a RecordFunction; for module calls, the address of `open_here`
  uint64_t recorder = 0;
  Intervals::Interval* interval = nullptr;  // nullptr: it was lost, and ops inside have no interval either
};
thread_local Open open_here;

uint64_t next_id() {
  static std::atomic<uint64_t> made{0};
  return ++made;
}

bool is_open_here(uint64_t recorder) { return open_here.key != nullptr && open_here.recorder == recorder; }

// The index of the tensor's device if its type is recorded, or else -1.
int device_index_of(const c10::TensorImpl* tensor) {
  if (!is_readable(tensor)) {
    return -1;
  }
  const c10::StorageImpl* const storage = tensor->unsafe_storage().unsafeGetStorageImpl();
  const bool recorded =
      storage != nullptr && static_cast<int>(storage->device().type()) == current_type.load(std::memory_order_relaxed);
  return recorded ? std::max<int>(storage->device().index(), 0) : -1;
}

// The same, for the first value that has one.
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

// An op that returns a view launches nothing itself. If it has to copy, an op inside it does that. A function without a schema is not
// an op but a range.
bool launches_nothing(const at::RecordFunction& function) {
  thread_local std::map<std::string, bool, std::less<>> known;
  const std::string_view name = function.name();
  const auto found = known.find(name);
  if (found != known.end()) {
    return found->second;
  }
  const std::optional<c10::FunctionSchema> schema = function.operator_schema();
  const auto is_view = [](const c10::Argument& result) {
    return result.alias_info() != nullptr && !result.alias_info()->isWrite();
  };
  const bool nothing = !schema.has_value() ||
                       std::find(std::begin(kWithoutKernel), std::end(kWithoutKernel), name) != std::end(kWithoutKernel) ||
                       std::any_of(schema->returns().begin(), schema->returns().end(), is_view);
  known.emplace(name, nothing);
  return nothing;
}

}  // namespace

// What PyTorch and the observer of modules call.
struct Recorder::Callbacks {
  static std::unique_ptr<at::ObserverContext> begin(const at::RecordFunction& function) noexcept {
    try {
      if (is_open_here(current_id.load(std::memory_order_relaxed)) || is_paused() || function.isAsync()) {
        return nullptr;
      }
      const int index = device_index_of(arguments_of(function));
      if (index < 0 || launches_nothing(function)) {
        return nullptr;
      }
      const RecorderUse use;
      Recorder* const recorder = use.recorder();
      if (recorder == nullptr || recorder->intervals_.failed()) {
        return nullptr;
      }
      Kernel row{};
      uint64_t generation = 0;
      {
        const LogWriter writer;
        ThreadLog* const log = writer.log();
        if (log == nullptr) {
          return nullptr;
        }
        row.op = log->row_of_innermost_op(&function);
        row.module_call = log->innermost_call();
        row.runtime_call = log->thread();
        generation = writer.generation();
      }
      if (row.op != kNoRow) {
        recorder->begin(&function, static_cast<c10::DeviceIndex>(index), row, generation);
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
    const RecorderUse use;
    Recorder* const recorder = use.recorder();
    const uint64_t generation = LogWriter().generation();  // 0 also in a fork, where the recorder must not be used
    if (recorder != nullptr && recorder->id_ == open.recorder && open.interval != nullptr && generation != 0) {
      recorder->intervals_.end(*open.interval, generation);
    }
  }

  // Ends the interval that is open on this thread, and begins one of the innermost module call that is open now.
  static void call_changed(const c10::TensorImpl* const* tensors, size_t count) noexcept {
    try {
      int device_index = -1;
      for (size_t i = 0; i < count && device_index < 0; ++i) {
        device_index = device_index_of(tensors[i]);
      }
      const RecorderUse use;
      Recorder* const recorder = use.recorder();
      if (recorder == nullptr || recorder->intervals_.failed()) {
        return;
      }
      Kernel row{};
      uint64_t generation = 0;
      {
        const LogWriter writer;
        if (ThreadLog* const log = writer.log()) {
          row.op = kNoRow;
          row.module_call = log->innermost_call();
          row.runtime_call = log->thread();
          generation = writer.generation();
        }
      }
      if (is_open_here(recorder->id_) && generation != 0) {
        const Open open = std::exchange(open_here, {});
        if (open.interval != nullptr) {
          device_index = device_index >= 0 ? device_index : Intervals::device_of(*open.interval);
          recorder->intervals_.end(*open.interval, generation);
        }
      }
      if (generation != 0 && row.module_call != kNoRow && device_index >= 0) {
        recorder->begin(&open_here, static_cast<c10::DeviceIndex>(device_index), row, generation);
      }
    } catch (...) {  // out of memory
    }
  }
};

void Recorder::begin(const void* key, c10::DeviceIndex index, const Kernel& row, uint64_t generation) {
  if (intervals_.has_device(index)) {
    open_here = {key, id_, nullptr};  // set before it begins, so that ops which run meanwhile have no interval
    open_here.interval = intervals_.begin(index, row, generation);
  }
}

Recorder::Recorder(c10::DeviceType type) : intervals_(type), id_(next_id()) {
  if (users_of.exchange(process_) != process_) {
    users = 0;
  }
}

Recorder::~Recorder() {
  if (getpid() == process_) {
    stop(false);
  } else {
    uninstall();
  }
}

// The callback is added after that of the OpObserver, so that the row of an op is open when its interval begins.
void Recorder::record_into(DeviceLog& log, bool ops) {
  intervals_.record_into(log);
  current_type = static_cast<int>(intervals_.type());
  current_id = id_;
  current = this;
  if (ops) {
    handle_ = at::addGlobalCallback(
        at::RecordFunctionCallback(&Callbacks::begin, &Callbacks::end).needsInputs(true).scopes({at::RecordScope::FUNCTION}));
  } else {
    ModuleObserver::set_listener(&Callbacks::call_changed);
  }
}

void Recorder::uninstall() noexcept {
  if (handle_.has_value()) {
    at::removeCallback(*std::exchange(handle_, std::nullopt));
  }
  if (Recorder* expected = this; current.compare_exchange_strong(expected, nullptr)) {
    current_id = 0;
    current_type = -1;
    ModuleObserver::set_listener(nullptr);
  }
}

void Recorder::stop(bool may_wait) noexcept {
  if (std::exchange(stopped_, true)) {
    return;
  }
  uninstall();
  while (users.load() != 0) {
    sched_yield();
  }
  intervals_.settle(may_wait);
  intervals_.release();
}

}  // namespace torchprof::events
