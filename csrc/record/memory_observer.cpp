#include "record/memory_observer.h"

#include <c10/core/CPUAllocator.h>
#include <c10/util/Logging.h>
#include <c10/util/ThreadLocalDebugInfo.h>
#include <torch/csrc/profiler/orchestration/observer.h>

#include <atomic>
#include <utility>

#include "record/allocator_statistics.h"
#include "record/memory_reports.h"
#include "record/stacks.h"
#include "record/thread_slot.h"
#include "record/watched_storages.h"
#include "trace/clock.h"

namespace torchprof {
namespace {

using c10::DebugInfoKind;
using c10::ThreadLocalDebugInfo;
using namespace torch::profiler::impl;

// The state in the slot of the thread that records, and of the autograd threads of its backward passes; nullptr: nothing is recorded.
std::atomic<const void*> state_in_slot{nullptr};

// PyTorch casts what is in the slot to ProfilerStateBase, so it must be one. Its config says Disabled, so that code which asks whether
// a profiler is active behaves as it does without a recording.
class Reports final : public ProfilerStateBase {
 public:
  Reports() : ProfilerStateBase(ProfilerConfig(ProfilerState::Disabled)) {}

  bool memoryProfilingEnabled() const override { return true; }
  ActiveProfilerType profilerType() override { return ActiveProfilerType::NONE; }

  void reportMemoryUsage(void* address, int64_t bytes, size_t allocated, size_t reserved, c10::Device device) override {
    if (!is_of_program(address, bytes)) {
      return;
    }
    const LogWriter writer(Event::kAllocation);
    if (ThreadLog* const log = writer.log(); log != nullptr && bytes != 0) {
      const int64_t now = ticks();
      const auto type = static_cast<int8_t>(device.type());
      const auto index = static_cast<int8_t>(device.index());
      const uint32_t stack = bytes > 0 ? stack_of_memory(*log) : kStackOfOp;
      const bool kept =
          log->memory_event(now, reinterpret_cast<uint64_t>(address), bytes, type, index, stack, false, device.is_cpu());
      try {
        if (!device.is_cpu()) {
          const AllocatorTotal total{now, static_cast<int64_t>(allocated), static_cast<int64_t>(reserved), 0, type, index, {}};
          if (statistics_.changed(total, kept ? bytes : 0)) {
            if (AllocatorTotal* const row = log->allocator_totals.append()) {
              *row = total;
            }
          }
        }
      } catch (...) {
        log->allocator_totals.drop();
      }
    }
  }

 private:
  AllocatorStatistics statistics_;
};

// PyTorch's reporter prints a warning at the first free of a block that it does not know, and at every thousandth after. While
// recording this is normal: blocks from before are freed all the time. So the first such free happens here, with warnings off.
void expect_unknown_frees() {
  const int level = std::exchange(FLAGS_caffe2_log_level, c10::GLOG_ERROR);
  char unknown = 0;
  c10::profiledCPUMemoryReporter().Delete(&unknown);
  FLAGS_caffe2_log_level = level;
}

}  // namespace

bool MemoryObserver::has_slot() {
  const void* const ours = state_in_slot.load(std::memory_order_relaxed);
  return ours != nullptr && ThreadLocalDebugInfo::get(DebugInfoKind::PROFILER_STATE) == ours;
}

MemoryObserver::MemoryObserver(const std::vector<PyObject*>& profiler_switches)
    : slot_(std::make_shared<Reports>(), profiler_switches) {
  state_in_slot.store(slot_.state(), std::memory_order_relaxed);
  if (slot_.is_held()) {
    expect_unknown_frees();
  }
  cpu_.emplace();
}

MemoryObserver::~MemoryObserver() {
  cpu_.reset();
  watched_storages().clear();
  state_in_slot.store(nullptr, std::memory_order_relaxed);
}

}  // namespace torchprof
