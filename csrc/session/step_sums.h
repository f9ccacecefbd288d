// The sums over the steps of a recording with `aggregate`. A step is added up on another thread while the program runs the next one:
//
//   program    step 0 │ step 1      │ step 2      │ stop: waits
//   helper            └ adds up 0   └ adds up 1   └ adds up 2
//
// The helper knows neither Python nor observers. There is one at a time, for one step: the next step ends after it has, and so does a
// fork, which begins without it: a process that had no threads has none, and what it adds up is whole.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "collate/collate.h"
#include "collate/totals.h"

namespace torchprof {

// What is collated of a step, which is over. The references are to what the recording has until it is over.
struct EndedStep {
  std::vector<std::unique_ptr<ThreadLog>> logs;
  std::vector<int32_t> trees;  // that no later log has: see EndedLogs
  Losses losses;               // besides those of the logs
  DeviceReport devices;
  Moments moments;
  const std::vector<Held>& held;
  const OpClasses& classes;
  bool memory;
  TickConverter clock;
  int64_t end;
  uint64_t main_thread;
  bool only_sums;
  bool stacks;

  Collated collated(Carried& carried) {
    Collated found = collate(logs, std::move(devices),
                             {moments, held, classes, memory, clock, end, main_thread, only_sums, stacks}, carried);
    found.tables.losses += losses;
    return found;
  }
  Losses losses_of_all() const;
};

struct Sums {
  Sums(int64_t budget_bytes, Carried of_before) : carried(std::move(of_before)), totals(budget_bytes) {}

  // Where memory runs out, this step and all after it are lost: those before it are whole.
  void add(EndedStep& step) noexcept;
  // What came after the last step; its rows count where there was none. Nothing: memory has run out.
  std::optional<PhaseTimes> add_rest(EndedStep& rest) noexcept;

  int64_t bytes() const { return totals.bytes() + bytes_beside(); }

  Carried carried;
  Totals totals;
  std::vector<Step> steps;
  Losses losses;
  int64_t device_clock_error = 0;
  bool devices_interrupted = false;

 private:
  int64_t bytes_beside() const { return carried.stacks.bytes() + static_cast<int64_t>(steps.size() * sizeof(Step)); }
  template <typename Add>
  void add_or_lose(EndedStep& step, Add add) noexcept;

  bool has_run_out_ = false;
};

class StepSums {
 public:
  StepSums(int64_t budget_bytes, Carried carried);
  ~StepSums();
  StepSums(const StepSums&) = delete;
  StepSums& operator=(const StepSums&) = delete;

  void add(EndedStep step) noexcept;
  Sums& sums();  // of all steps so far, which it waits for

  // These wait for nothing: they are those of the steps that were added up when the latest began to be.
  bool is_merge_due() const { return helper_ ? was_merge_due_ : sums_->totals.is_merge_due(); }
  int64_t bytes() const { return helper_ ? bytes_ : sums_->bytes(); }

 private:
  struct Helper {
    EndedStep step;
    std::thread thread;
  };
  void wait() noexcept;
  static void before_fork();
  static void after_fork();
  bool is_worth_a_helper(const EndedStep& step) const;

  const int64_t budget_;
  std::unique_ptr<Sums> sums_;
  std::optional<Helper> helper_;  // nullopt: none is at work
  bool was_merge_due_ = false;
  int64_t bytes_ = 0;
};

}  // namespace torchprof
