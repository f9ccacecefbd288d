#include "session/session.h"

#include "record/pause.h"

#include <unistd.h>

#include <algorithm>
#include <stdexcept>
#include <thread>

namespace torchprof {
namespace {

struct Running {
  std::unique_ptr<Session> session;
  std::thread::id thread;
  pid_t process = 0;
};

// Leaked on purpose: a recording that was never stopped must not be torn down after Python is.
Running& running() {
  static auto* const instance = new Running;
  return *instance;
}

// A device may wait for a callback that is written in Python.
struct WithoutGil {
  PyThreadState* const state = PyEval_SaveThread();
  ~WithoutGil() { PyEval_RestoreThread(state); }
};

int64_t unix_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::system_clock::now().time_since_epoch())
      .count();
}

}  // namespace

Session::Session(const Options& options, std::unique_ptr<KernelObserver> kernels, std::unique_ptr<EventObserver> events)
    : begin_(ClockReading::now()),
      origin_unix_ns_(unix_ns()),
      counted_ops_(options.counted_ops),
      memory_requested_(options.memory),
      held_(options.held),
      logs_(options.budget_bytes, options.ops_with_arguments),
      kernels_(std::move(kernels)),
      events_(std::move(events)) {
  if (options.memory) {
    memory_.emplace(held_);
    meta_.emplace();
  }
  if (options.fold) {
    totals_.emplace();
  }
  logs_.open();
  if (kernels_) {
    kernels_->record_into(devices_.emplace(logs_.budget()));
  }
  if (options.ops) {
    ops_.emplace(options.shapes);
  }
  if (options.module_class != nullptr) {
    modules_.emplace(options.module_class, events_ && !options.ops ? &EventObserver::call_changed : nullptr);
  }
  if (events_) {
    events_->record_into(devices_.emplace(logs_.budget()), options.ops ? EventObserver::Around::kOps : EventObserver::Around::kModuleCalls);
  }
}

void Session::mark(const std::string& name) { moments_.marks.push_back({ticks(), name}); }

void Session::begin_step(int32_t number, bool warmup) {
  end_step(true);
  if (modules_ && modules_->was_reset()) {
    modules_->observe_new_classes();
  }
  Step step{};
  step.start = ticks();
  step.end = kNever;
  step.number = number;
  step.warmup = warmup ? 1 : 0;
  if (kernels_) {
    kernels_->compare_clocks();
  }
  moments_.steps.push_back(step);
}

void Session::end_step(bool may_wait) {
  if (moments_.steps.empty() || moments_.steps.back().end != kNever) {
    return;
  }
  moments_.steps.back().end = ticks();
  if (totals_) {
    settle(may_wait, false);
    fold();
  }
}

void Session::settle(bool may_wait, bool last) {
  settling_since_ = ticks();
  if (kernels_) {
    const WithoutGil without;
    kernels_->settle(may_wait);
  }
  if (events_) {
    const WithoutGil without;
    last ? events_->stop(may_wait) : events_->settle(may_wait);
  }
}

// What other threads do while the logs are exchanged is not recorded.
void Session::fold() {
  logs_.close();
  Tables step = collated(held_, ClockReading::now());
  if (step.steps.back().warmup == 0) {
    totals_->fold(step);
  }
  losses_ += step.losses;
  device_clock_error_ = std::max(device_clock_error_, step.device_clock_error);
  devices_interrupted_ = devices_interrupted_ || step.devices_interrupted;
  folded_steps_.insert(folded_steps_.end(), step.steps.begin(), step.steps.end());
  moments_.steps.clear();
  logs_.clear();
  logs_.open();
}

Tables Session::collated(const std::vector<Held>& held, ClockReading end) {
  DeviceReport devices = kernels_ ? kernels_->take(settling_since_) : events_ ? events_->take() : DeviceReport{};
  return collate(logs_.logs(), std::move(devices), {moments_, held, counted_ops_, memory_requested_, TickConverter(begin_, end), end.ticks}, outstanding_);
}

void Session::observe_new_classes() {
  if (modules_) {
    modules_->observe_new_classes();
  }
}

Recorded Session::stop(const std::vector<Held>& held) {
  const ClockReading end = ClockReading::now();
  Recorded recorded;
  if (modules_) {
    recorded.unobserved_classes = modules_->unobserved_classes();
  }
  modules_.reset();
  ops_.reset();
  meta_.reset();
  memory_.reset();
  logs_.close();
  if (kernels_) {
    kernels_->stop();
  }
  if (!moments_.steps.empty() && moments_.steps.back().end == kNever) {
    moments_.steps.pop_back();  // what came after the last step is no step
  }
  if (totals_) {
    Tables rest = collated(held_, end);
    if (folded_steps_.empty()) {
      totals_->fold(rest);  // no step was marked: the whole is one
    }
    recorded.tables = totals_->take();
    recorded.tables.steps = std::move(folded_steps_);
    recorded.tables.losses = losses_;
    recorded.tables.losses += rest.losses;
    recorded.tables.device_clock_error = std::max(device_clock_error_, rest.device_clock_error);
    recorded.tables.devices_interrupted = devices_interrupted_ || rest.devices_interrupted;
  } else {
    held_.insert(held_.end(), held.begin(), held.end());
    recorded.tables = collated(held_, end);
  }
  recorded.duration_ns = end.ns - begin_.ns;
  recorded.origin_unix_ns = origin_unix_ns_;
  if (events_) {
    recorded.device_failure = events_->failure();
  }
  return recorded;
}

void start(const Options& options) {
  if (is_recording()) {
    throw std::runtime_error("torchprof is already recording: one recording at a time; end that one first");
  }
  Running& now = running();
  now.session.reset();  // only there in a fork: what the parent installed is taken away
  if (options.memory && MemoryObserver::slot_is_taken()) {
    throw std::runtime_error(
        "another profiler (torch.profiler?) is active on this thread and holds the slot that PyTorch reports memory to: "
        "end it first, or record with memory=False");
  }
  open_kernels = 0;  // one may have been left open by an interrupt
  std::unique_ptr<EventObserver> events;
  if (options.events.has_value()) {
    const WithoutGil without;
    events = std::make_unique<EventObserver>(*options.events);
  }
  now.session = std::make_unique<Session>(options, options.cupti ? std::make_unique<KernelObserver>() : nullptr, std::move(events));
  now.thread = std::this_thread::get_id();
  now.process = getpid();
}

Session& current() {
  if (!is_recording()) {
    throw std::runtime_error("torchprof is not recording");
  }
  return *running().session;
}

Recorded stop(const std::vector<Held>& held, bool may_wait) {
  Session& session = current();
  if (running().thread != std::this_thread::get_id()) {
    throw std::runtime_error("a torchprof recording must be stopped on the thread that started it");
  }
  session.settle(may_wait, true);
  const std::unique_ptr<Session> ending = std::move(running().session);
  return session.stop(held);
}

bool is_recording() { return running().session != nullptr && running().process == getpid(); }

}  // namespace torchprof
