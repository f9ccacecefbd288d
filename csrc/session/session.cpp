#include "session/session.h"

#include <ATen/record_function.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <stdexcept>
#include <thread>
#include <utility>

#include "record/blocks_met.h"
#include "record/pause.h"
#include "record/watched_storages.h"

namespace torchprof {
namespace {

struct Running {
  std::unique_ptr<Session> session;
  PyObject* owner = nullptr;
  std::thread::id thread;
  uint64_t python_thread = 0;
  std::string thread_name;
  pid_t process = 0;
  pid_t starting = 0;  // the process in which start() is running; 0: none
};

// Leaked: a recording that was never stopped must not be destroyed after Python is.
Running& running() {
  static auto* const instance = new Running;
  return *instance;
}

// Kept by every recording that started with it.
std::shared_ptr<const OpClasses>& op_classes() {
  static auto* const instance = new std::shared_ptr<const OpClasses>(std::make_shared<const OpClasses>());
  return *instance;
}

// Releases the GIL, which a thread that the device waits for may need.
struct WithoutGil {
  PyThreadState* const state = PyEval_SaveThread();
  ~WithoutGil() { PyEval_RestoreThread(state); }
};

// Exists while start() runs. It releases the GIL, so another thread may call start() meanwhile, and is refused.
struct Starting {
  explicit Starting(Running& running) : running_(running) { running_.starting = getpid(); }
  ~Starting() { running_.starting = 0; }
  Starting(const Starting&) = delete;
  Starting& operator=(const Starting&) = delete;

 private:
  Running& running_;
};

uint64_t python_thread_id() { return PyThreadState_GetID(PyThreadState_Get()); }

// Whether Python still knows a thread. Its ids are never used again, as those of the system are.
bool is_alive(uint64_t python_thread) {
  PyThreadState* state = PyInterpreterState_ThreadHead(PyInterpreterState_Get());
  while (state != nullptr && PyThreadState_GetID(state) != python_thread) {
    state = PyThreadState_Next(state);
  }
  return state != nullptr;
}

// Whether this thread may end the session.
bool may_end(const Running& now) { return now.thread == std::this_thread::get_id() || !is_alive(now.python_thread); }

// Destroys the session, which removes the observers.
void discard(Running& now) noexcept {
  now.session.reset();
  Py_CLEAR(now.owner);
}

int64_t unix_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::system_clock::now().time_since_epoch()).count();
}

}  // namespace

Session::Session(const Options& options, std::unique_ptr<DeviceRecorder> device)
    : main_thread_(at::RecordFunction::currentThreadId()),
      begin_(ClockReading::now()),
      origin_unix_ns_(unix_ns()),
      classes_(op_classes()),
      memory_requested_(options.memory),
      stacks_requested_(options.stacks != StacksRead::kNot),
      held_(options.held),
      logs_(options.budget_bytes, classes_, stacks_requested_),
      device_(std::move(device)) {
  if (options.memory) {
    if (options.slice != nullptr) {
      know_slices(*options.slice);
    }
    memory_.emplace(options.profiler_switches);
    meta_.emplace();
  }
  if (options.aggregate) {
    sums_.emplace(options.budget_bytes, Carried{{}, {}, held_by_model(false, held_), {}});
  }
  if (stacks_requested_) {
    stacks_.emplace(options.stacks);
  }
  logs_.open();
  if (options.ops) {
    ops_.emplace(options.shapes, options.runtimes);
  } else if (options.flops) {
    counted_ops_.emplace(options.flop_outputs);
  }
  if (options.evaluator_switch != nullptr) {
    compiled_code_.emplace(options.evaluator_switch, options.on_evaluator);
    ahead_of_time_.emplace(options.ahead_of_time);
  }
  const bool sees_evaluators = compiled_code_.has_value() && compiled_code_->sees_evaluators();
  if (options.module_class != nullptr) {
    modules_.emplace(options.module_class, sees_evaluators, options.on_outermost_call);
  }
  if (options.ops) {
    functions_.emplace(options.loader_iter, options.run_backward, sees_evaluators);
  }
  if (device_) {
    device_->record_into(device_log_.emplace(logs_.budget()), options.ops);
  }
}

// One that does not fit is counted.
void Session::mark(const std::string& name) noexcept {
  watched_storages().note_ended();
  try {
    const int64_t now = ticks();
    marks_.take(sizeof(Moments::Named) + 2 * sizeof(Mark) + name.size());
    moments_.marks.push_back({now, name});
  } catch (const std::bad_alloc&) {
    ++marks_lost_;
  }
}

void Session::move_modules(const NewAddresses& addresses) {
  logs_.move_modules(addresses);
  if (sums_) {
    sums_->sums().totals.move_modules(addresses);
  }
}

void Session::begin_step(int32_t number, bool warmup) {
  if (!moments_.steps.empty() && moments_.steps.back().end == kNever && moments_.steps.back().number == number) {
    return;  // it has begun, and an interrupt kept Python from hearing of it
  }
  end_step(true);
  if (modules_) {
    modules_->observe_again();
  }
  Step step{};
  step.start = ticks();
  step.end = kNever;
  step.number = number;
  step.warmup = warmup ? 1 : 0;
  if (device_) {
    device_->compare_clocks();
  }
  moments_.steps.push_back(step);
}

void Session::end_step(bool may_wait) {
  if (moments_.steps.empty() || moments_.steps.back().end != kNever) {
    return;
  }
  watched_storages().note_ended();
  moments_.steps.back().end = ticks();
  if (sums_) {
    settle_device(may_wait);
    aggregate_step();
  }
}

void Session::settle_device(bool may_wait) {
  if (device_) {
    const WithoutGil without;
    device_->settle(may_wait);
  }
}

void Session::stop_device(bool may_wait) {
  if (device_) {
    const WithoutGil without;
    device_->stop(may_wait);
  }
}

// With a device, what other threads do meanwhile is not recorded, as its report must end where the logs do.
void Session::aggregate_step() {
  DeviceReport report;
  if (device_) {
    logs_.close();
    try {
      report = device_->take();
    } catch (const std::bad_alloc&) {  // it comes with that of the next step
    }
  }
  sums_->add(ended(logs_.exchange(), std::move(report), ClockReading::now()));
  if (device_) {
    logs_.open();
  }
}

EndedStep Session::ended(EndedLogs logs, DeviceReport report, ClockReading end) {
  device_failure_ = report.failure;
  Losses losses = logs_.take_losses();
  losses.marks = std::exchange(marks_lost_, 0);
  marks_.give_back();
  return {std::move(logs.logs),
          std::move(logs.trees),
          losses,
          std::move(report),
          std::exchange(moments_, {}),
          held_,
          *classes_,
          memory_requested_,
          TickConverter(begin_, end),
          end.ticks,
          main_thread_,
          sums_.has_value(),
          stacks_requested_};
}

void Session::observe_new_classes() {
  if (modules_) {
    modules_->observe_new_classes();
  }
}

Recorded Session::stop(const std::vector<Held>& held) {
  watched_storages().note_ended();
  const ClockReading end = ClockReading::now();
  Recorded recorded;
  if (modules_) {
    recorded.unobserved_classes = modules_->unobserved_classes();
    recorded.compiled_outside_calls = CompiledCodeObserver::outside_calls();
  }
  recorded.beside_profiler = memory_ && memory_->was_shared();
  functions_.reset();
  modules_.reset();
  ahead_of_time_.reset();
  compiled_code_.reset();
  ops_.reset();
  counted_ops_.reset();
  meta_.reset();
  memory_.reset();
  logs_.close();
  stacks_.reset();
  for (const auto& log : logs_.logs()) {
    recorded.storages_read.insert(log->storages_read);
  }
  if (!moments_.steps.empty() && moments_.steps.back().end == kNever) {
    moments_.steps.pop_back();  // a step that did not end is not reported
  }
  if (sums_) {
    Sums& sums = sums_->sums();
    EndedStep rest = ended({std::move(logs_.logs()), {}}, device_ ? device_->take() : DeviceReport{}, end);
    if (const std::optional<PhaseTimes> times = sums.add_rest(rest)) {
      recorded.phase_times = times->whole;
    }
    recorded.tables = sums.totals.copy(sums.carried.stacks);
    recorded.shapes_kept = sums.totals.shapes_kept();
    recorded.tables.steps = std::move(sums.steps);
    recorded.tables.losses = sums.losses;
    recorded.tables.losses += sums.totals.losses();
    recorded.tables.device_clock_error = sums.device_clock_error;
    recorded.tables.devices_interrupted = sums.devices_interrupted;
  } else {
    Carried carried{{}, {}, held_by_model(false, held_), {}};
    held_.insert(held_.end(), held.begin(), held.end());
    EndedStep whole = ended({std::move(logs_.logs()), {}}, device_ ? device_->take() : DeviceReport{}, end);
    auto [tables, times, allocated] = whole.collated(carried);
    recorded.tables = std::move(tables);
    recorded.phase_times = times.whole;
  }
  recorded.duration_ns = end.ns - begin_.ns;
  recorded.origin_unix_ns = origin_unix_ns_;
  recorded.device_failure = device_failure_;
  return recorded;
}

void set_op_classes(OpClasses classes) { op_classes() = std::make_shared<const OpClasses>(std::move(classes)); }

void start(PyObject* owner, const Options& options) {
  Running& now = running();
  if (is_recording() && Py_REFCNT(now.owner) == 1 && may_end(now)) {
    discard(now);
  }
  if (is_recording()) {
    const std::string thread = now.thread_name.empty() ? "a thread without a name" : "thread '" + now.thread_name + "'";
    throw std::runtime_error("torchprof is already recording, on " + thread +
                             (is_alive(now.python_thread) ? "" : ", which has ended") +
                             ": one recording at a time; end that one first");
  }
  if (now.starting == getpid()) {
    throw std::runtime_error("torchprof is already recording: another thread begins to, and there is one recording at a time");
  }
  discard(now);  // in a fork it is the parent's
  reset_pauses();
  const Starting starting(now);
  std::unique_ptr<DeviceRecorder> device;
  {
    const WithoutGil without;
    device = make_device_recorder(options.device_recorder, options.device_type);
  }
  now.thread_name = options.thread_name;
  now.session = std::make_unique<Session>(options, std::move(device));  // nothing fails from here on
  now.owner = Py_NewRef(owner);
  now.thread = std::this_thread::get_id();
  now.python_thread = python_thread_id();
  now.process = getpid();
}

Session& current() {
  if (!is_recording()) {
    throw std::runtime_error("torchprof is not recording");
  }
  return *running().session;
}

Recorded stop(PyObject* owner, const std::vector<Held>& held, bool may_wait) {
  if (!is_recording(owner)) {
    throw std::runtime_error("torchprof is not recording");
  }
  Running& now = running();
  if (!may_end(now)) {
    throw std::runtime_error("a torchprof recording must be stopped on the thread that started it");
  }
  now.session->stop_device(may_wait);
  const std::unique_ptr<Session> ending = std::move(now.session);
  Py_CLEAR(now.owner);
  return ending->stop(held);
}

bool abandon(PyObject* owner) noexcept {
  Running& now = running();
  if (is_recording(owner)) {
    if (!may_end(now)) {
      return false;
    }
    discard(now);
  }
  return true;
}

bool is_recording() { return running().session != nullptr && running().process == getpid(); }
bool is_recording(PyObject* owner) { return is_recording() && running().owner == owner; }

}  // namespace torchprof
