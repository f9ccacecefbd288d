#include "session/step_sums.h"

#include <pthread.h>
#include <signal.h>

#include <algorithm>
#include <exception>
#include <mutex>
#include <new>
#include <system_error>

namespace torchprof {
namespace {

// Of the sums of a recording: there is one at a time. Held while its helper comes and goes.
std::mutex mutex;
StepSums* current = nullptr;

constexpr uint64_t kFewOps = 1000;    // are added up sooner than a thread starts
constexpr int64_t kPartOfBudget = 8;  // of what may wait to be added up while the next step is recorded

// A thread to which no signal goes: they interrupt what the program waits for.
template <typename Function>
bool start_thread(std::thread& thread, Function function) {
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  try {
    thread = std::thread(function);
  } catch (const std::system_error&) {  // there are too many
  } catch (const std::bad_alloc&) {
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  return thread.joinable();
}

}  // namespace

Losses EndedStep::losses_of_all() const {
  Losses all = losses;
  for (const auto& log : logs) {
    all += torchprof::losses_of_all(*log);
  }
  all.kernels += devices.lost + devices.kernels.size() + devices.runtime_calls.size();
  return all;
}

template <typename Add>
void Sums::add_or_lose(EndedStep& step, Add add) noexcept {
  const Losses all = step.losses_of_all();
  try {
    if (has_run_out_) {
      throw std::bad_alloc();
    }
    carried.stacks.set_room(totals.has_room());
    Collated found = step.collated(carried);
    totals.set_taken_beside(bytes_beside());
    if (const size_t most = steps.size() + found.tables.steps.size(); most > steps.capacity()) {
      steps.reserve(most + most / 8 + 64);  // with room for more: otherwise all would be moved each time
    }
    add(found);
    for (const int32_t tree : step.trees) {
      carried.stacks.forget(tree);
    }
    losses += found.tables.losses;
    device_clock_error = std::max(device_clock_error, found.tables.device_clock_error);
    devices_interrupted = devices_interrupted || found.tables.devices_interrupted;
  } catch (const std::exception&) {
    has_run_out_ = true;
    losses += all;
  }
}

void Sums::add(EndedStep& step) noexcept {
  add_or_lose(step, [this](const Collated& found) {
    if (found.tables.steps.back().warmup == 0) {
      totals.add(found.tables, found.times, found.allocated);
    }
    steps.insert(steps.end(), found.tables.steps.begin(), found.tables.steps.end());
  });
}

std::optional<PhaseTimes> Sums::add_rest(EndedStep& rest) noexcept {
  std::optional<PhaseTimes> times;
  add_or_lose(rest, [&](Collated& found) {
    if (steps.empty()) {
      totals.add(found.tables, found.times, found.allocated);  // no step was marked: the whole recording is one
    }
    times = std::move(found.times);
  });
  return times;
}

StepSums::StepSums(int64_t budget_bytes, Carried carried)
    : budget_(budget_bytes), sums_(std::make_unique<Sums>(budget_bytes, std::move(carried))) {
  static std::once_flag once;
  std::call_once(once, [] { pthread_atfork(&before_fork, &after_fork, &after_fork); });
  const std::lock_guard lock(mutex);
  current = this;
}

StepSums::~StepSums() {
  const std::lock_guard lock(mutex);
  current = nullptr;
  if (helper_ && helper_->thread.joinable()) {
    helper_->thread.join();
  }
}

void StepSums::before_fork() {
  mutex.lock();
  if (current != nullptr && current->helper_ && current->helper_->thread.joinable()) {
    current->helper_->thread.join();
  }
}

void StepSums::after_fork() { mutex.unlock(); }

void StepSums::wait() noexcept {
  const std::lock_guard lock(mutex);
  if (helper_ && helper_->thread.joinable()) {
    helper_->thread.join();
  }
  helper_.reset();
}

Sums& StepSums::sums() {
  wait();
  return *sums_;
}

void StepSums::add(EndedStep step) noexcept {
  wait();
  if (!is_worth_a_helper(step)) {
    sums_->add(step);
    return;
  }
  was_merge_due_ = sums_->totals.is_merge_due();
  bytes_ = sums_->bytes();
  {
    const std::lock_guard lock(mutex);
    helper_.emplace(Helper{std::move(step), {}});
    if (start_thread(helper_->thread, [sums = sums_.get(), work = &*helper_] { sums->add(work->step); })) {
      return;
    }
  }
  sums_->add(helper_->step);
  helper_.reset();
}

// So that everything has room that would have it without a helper, neither the step nor the sums may be large.
bool StepSums::is_worth_a_helper(const EndedStep& step) const {
  uint64_t ops = 0;
  int64_t bytes = 0;
  for (const auto& log : step.logs) {
    ops += log->ops.size();
    bytes += log->bytes();
  }
  return ops >= kFewOps && bytes <= budget_ / kPartOfBudget && sums_->bytes() <= budget_ / kPartOfBudget &&
         std::thread::hardware_concurrency() > 1;
}

}  // namespace torchprof
