// One recording: installs the observers, takes them away in the opposite order, and hands over the tables. The only
// place that knows them all, and the only global state there is besides the threads' slots.
#pragma once

#include <Python.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "trace/clock.h"
#include "collate/collate.h"
#include "trace/device_log.h"
#include "device/events/recorder.h"
#include "device/cupti/recorder.h"
#include "record/memory_observer.h"
#include "record/meta_allocator.h"
#include "record/module_observer.h"
#include "record/op_observer.h"
#include "record/thread_slot.h"
#include "collate/totals.h"

namespace torchprof {

struct Options {
  bool ops = true;
  bool shapes = true;
  bool memory = true;
  int64_t budget_bytes = int64_t{1} << 30;
  PyTypeObject* module_class = nullptr;  // nullptr: module calls are not recorded
  OpNames ops_with_arguments;            // see Arguments
  OpNames counted_ops;                   // whose FLOPs are counted: see kNested
  bool fold = false;                     // sums over steps instead of rows per event
  bool cupti = false;                    // kernels of NVIDIA GPUs
  std::optional<c10::DeviceType> events;  // of whose devices intervals are recorded
  std::vector<Held> held;                // by the model, now
};

struct Recorded {
  Tables tables;
  std::vector<std::string> unobserved_classes;  // nn.Module classes whose calls were not seen
  int64_t duration_ns = 0;
  int64_t origin_unix_ns = 0;  // wall clock at time 0 of the trace
  std::string device_failure;  // after which devices were no longer watched; empty where none failed
};

class Session {
 public:
  // `kernels` and `events` are at work already, or nullptr: making them takes too long to be part of the recording.
  Session(const Options& options, std::unique_ptr<KernelObserver> kernels, std::unique_ptr<EventObserver> events);
  ~Session() = default;  // members go in the opposite order of their construction

  void mark(const std::string& name);
  void begin_step(int32_t number, bool warmup);
  void end_step(bool may_wait);
  void observe_new_classes();
  int64_t bytes() const { return logs_.bytes(); }  // taken by what was recorded so far
  // Until devices have done what they were asked for, unless waiting may not be now; without the GIL.
  void settle(bool may_wait, bool last);
  Recorded stop(const std::vector<Held>& held);  // by the model, now; after settle()

 private:
  void fold();
  Tables collated(const std::vector<Held>& held, ClockReading end);

  const ClockReading begin_;
  const int64_t origin_unix_ns_;
  const OpNames counted_ops_;
  const bool memory_requested_;
  std::vector<Held> held_;
  Moments moments_;
  ThreadLogs logs_;
  Outstanding outstanding_;
  Losses losses_;                // of the steps that were folded
  int64_t device_clock_error_ = 0;
  bool devices_interrupted_ = false;
  std::vector<Step> folded_steps_;
  std::optional<Totals> totals_;
  std::optional<MemoryObserver> memory_;
  std::optional<MetaAllocator> meta_;
  std::optional<OpObserver> ops_;
  std::optional<ModuleObserver> modules_;
  std::optional<DeviceLog> devices_;
  std::unique_ptr<KernelObserver> kernels_;
  std::unique_ptr<EventObserver> events_;
  int64_t settling_since_ = 0;  // ticks
};

// The process has at most one session, and the thread that started it is the one that ends it. These throw
// std::runtime_error with what is wrong and the way out; start() also cupti::Error and EventObserver::Refused.
void start(const Options& options);
Session& current();
// `may_wait`: for devices; not where the program captures a CUDA graph, which waiting would break.
Recorded stop(const std::vector<Held>& held, bool may_wait);
bool is_recording();  // false in a fork of a process that is

}  // namespace torchprof
