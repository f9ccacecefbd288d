#include "session/step_sums.h"

#include <pthread.h>
#include <signal.h>

#include <algorithm>
#include <mutex>
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
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  return thread.joinable();
}

}  // namespace

void Sums::add(EndedStep& step) {
  const auto [tables, times, allocated] = step.collated(carried);
  if (tables.steps.back().warmup == 0) {
    totals.add(tables, times, allocated);
  }
  losses += tables.losses;
  device_clock_error = std::max(device_clock_error, tables.device_clock_error);
  devices_interrupted = devices_interrupted || tables.devices_interrupted;
  steps.insert(steps.end(), tables.steps.begin(), tables.steps.end());
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

void StepSums::wait() {
  std::unique_ptr<Helper> done;
  {
    const std::lock_guard lock(mutex);
    done = std::move(helper_);
    if (done && done->thread.joinable()) {
      done->thread.join();
    }
  }
  if (done && done->error) {
    std::rethrow_exception(done->error);
  }
}

Sums& StepSums::sums() {
  wait();
  return *sums_;
}

void StepSums::add(EndedStep step) {
  wait();
  if (!is_worth_a_helper(step)) {
    sums_->add(step);
    return;
  }
  was_merge_due_ = sums_->totals.is_merge_due();
  bytes_ = sums_->totals.bytes();
  auto helper = std::make_unique<Helper>(Helper{std::move(step), nullptr, {}});
  {
    const std::lock_guard lock(mutex);
    const bool started = start_thread(helper->thread, [sums = sums_.get(), work = helper.get()] {
      try {
        sums->add(work->step);
      } catch (...) {
        work->error = std::current_exception();
      }
    });
    if (started) {
      helper_ = std::move(helper);
      return;
    }
  }
  sums_->add(helper->step);
}

// So that everything has room that would have it without a helper, neither the step nor the sums may be large.
bool StepSums::is_worth_a_helper(const EndedStep& step) const {
  uint64_t ops = 0;
  int64_t bytes = 0;
  for (const auto& log : step.logs) {
    ops += log->ops.size();
    bytes += log->bytes();
  }
  return ops >= kFewOps && bytes <= budget_ / kPartOfBudget && sums_->totals.bytes() <= budget_ / kPartOfBudget &&
         std::thread::hardware_concurrency() > 1;
}

}  // namespace torchprof
