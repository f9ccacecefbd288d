#include "record/ahead_of_time.h"

#include <ATen/record_function.h>

#include <memory>
#include <vector>

#include "record/compiled_code_observer.h"

namespace torchprof {
namespace {

thread_local std::vector<std::unique_ptr<at::RecordFunction>>* ranges = nullptr;  // those that are open
thread_local int unopened = 0;  // innermost runs that have none, as one of them had no memory for it

void begin_run() noexcept {
  CompiledCodeObserver::note();
  if (unopened != 0) {
    ++unopened;
    return;
  }
  try {
    if (ranges == nullptr) {
      ranges = new std::vector<std::unique_ptr<at::RecordFunction>>;
    }
    ranges->push_back(std::make_unique<at::RecordFunction>(at::RecordScope::FUNCTION));  // it allocates before it adds
    if (ranges->back()->isActive()) {
      ranges->back()->before(kAheadOfTime);
    }
  } catch (...) {
    ++unopened;
  }
}

void end_run() noexcept {
  if (unopened != 0) {
    --unopened;
  } else if (ranges != nullptr && !ranges->empty()) {
    ranges->pop_back();
  }
}

}  // namespace

AheadOfTimeObserver::AheadOfTimeObserver(const std::vector<PyObject*>& runs) : hooks_(runs, begin_run, end_run) {}

}  // namespace torchprof
