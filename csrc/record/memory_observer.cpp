#include "record/memory_observer.h"

#include <c10/core/CPUAllocator.h>
#include <c10/util/Logging.h>
#include <torch/csrc/profiler/orchestration/observer.h>

#include <algorithm>
#include <unordered_map>
#include <utility>

#include "record/allocator_statistics.h"
#include "record/pause.h"
#include "record/thread_slot.h"
#include "trace/clock.h"

namespace torchprof {
namespace {

using namespace torch::profiler::impl;

// The real memory that is allocated while recording is paused: some kernels are run for real, to find out what they need. Frees of
// blocks from before, by Python's garbage collector for example, are not counted.
struct RealMemory {
  std::unordered_map<void*, int64_t> blocks;
  int64_t held = 0;
  int64_t peak = 0;

  void report(void* address, int64_t bytes) {
    if (bytes > 0) {
      blocks[address] = bytes;
      held += bytes;
      peak = std::max(peak, held);
    } else if (const auto block = blocks.find(address); block != blocks.end()) {
      held -= block->second;
      blocks.erase(block);
    }
  }
};
thread_local RealMemory real;

// PyTorch casts what is in the slot to ProfilerStateBase, so it must be one. Its config says Disabled, so that code which asks whether
// a profiler is active behaves as it does without a recording.
class Reports final : public ProfilerStateBase {
 public:
  Reports() : ProfilerStateBase(ProfilerConfig(ProfilerState::Disabled)) {}

  bool memoryProfilingEnabled() const override { return true; }
  ActiveProfilerType profilerType() override { return ActiveProfilerType::NONE; }

  void reportMemoryUsage(void* address, int64_t bytes, size_t allocated, size_t reserved, c10::Device device) override {
    if (is_paused()) {
      try {
        real.report(address, bytes);
      } catch (...) {
      }
      return;
    }
    const LogWriter writer;
    if (ThreadLog* const log = writer.log(); log != nullptr && bytes != 0) {
      try {
        const int64_t now = ticks();
        const auto type = static_cast<int8_t>(device.type());
        const auto index = static_cast<int8_t>(device.index());
        const bool kept = log->memory_event(now, reinterpret_cast<uint64_t>(address), bytes, type, index);
        if (!device.is_cpu()) {
          const AllocatorTotal total{now, static_cast<int64_t>(allocated), static_cast<int64_t>(reserved), 0, type, index, {}};
          if (statistics_.changed(total, kept ? bytes : 0)) {
            if (AllocatorTotal* const row = log->allocator_totals.append()) {
              *row = total;
            }
          }
        }
      } catch (...) {
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

int64_t take_real_peak() { return std::exchange(real, {}).peak; }

MemoryObserver::MemoryObserver(const std::vector<Held>& held, const std::vector<PyObject*>& profiler_switches)
    : slot_(std::make_shared<Reports>(), profiler_switches) {
  if (!slot_.is_held()) {
    return;  // the profiler that is there would take what follows for allocations of its program
  }
  expect_unknown_frees();
  for (const Held& block : held) {
    if (block.bytes != 0 && block.device_type == static_cast<int8_t>(c10::DeviceType::CPU)) {
      c10::profiledCPUMemoryReporter().New(reinterpret_cast<void*>(block.address), static_cast<size_t>(block.bytes));
    }
  }
}

}  // namespace torchprof
