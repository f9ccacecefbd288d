// One recording: installs the observers, removes them in the opposite order, and returns the tables. It is the only place that knows
// all of them, and the only global state besides the slots of the threads.
//
//   observers ─► logs of threads ┐
//                                ├─► collate ─► tables, or with `aggregate` after every step their sums: see StepSums
//   device    ─► log of device   ┘
#pragma once

#include <Python.h>

#include <array>
#include <cstdint>
#include <list>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "collate/collate.h"
#include "device/recorder.h"
#include "record/ahead_of_time.h"
#include "record/compiled_code_observer.h"
#include "record/counted_op_observer.h"
#include "record/function_ranges.h"
#include "record/memory_observer.h"
#include "record/meta_allocator.h"
#include "record/module_observer.h"
#include "record/op_observer.h"
#include "record/replaced_attribute.h"
#include "record/stacks.h"
#include "record/thread_slot.h"
#include "session/step_sums.h"
#include "trace/clock.h"
#include "trace/device_log.h"

namespace torchprof {

struct Options {
  bool ops = true;
  bool shapes = true;
  bool memory = true;
  int64_t budget_bytes = int64_t{1} << 30;
  PyTypeObject* module_class = nullptr;      // nullptr: module calls are not recorded
  PyObject* on_outermost_call = nullptr;     // see ModuleObserver; borrowed
  PyObject* evaluator_switch = nullptr;      // see CompiledCodeObserver; borrowed
  PyObject* on_evaluator = nullptr;          // the same
  std::vector<PyObject*> ahead_of_time;      // see AheadOfTimeObserver; borrowed
  std::vector<PyObject*> runtimes;           // see OpObserver; borrowed
  std::vector<PyObject*> profiler_switches;  // see ProfilerSlot; borrowed
  PyObject* loader_iter = nullptr;           // see FunctionRanges; borrowed, as the next
  PyObject* run_backward = nullptr;
  bool flops = false;                    // without `ops`: record those that a count of FLOPs needs
  bool flop_outputs = false;             // of these, also what they returned
  std::string thread_name;               // of this thread, for those who ask for another recording
  StacksRead stacks = StacksRead::kNot;  // of Python, where ops, calls and allocations begin
  bool aggregate = false;                // keep sums over steps instead of rows per event
  std::string device_recorder = "off";   // see make_device_recorder()
  int8_t device_type = 0;
  std::vector<Held> held;             // by the model, now
  c10::StorageImpl* slice = nullptr;  // of a storage: see know_slices()
};

struct Recorded {
  Tables tables;
  std::vector<std::string> unobserved_classes;  // nn.Module classes whose calls were not recorded
  AddressSet storages_read;             // by ops whose inputs were recorded, those of earlier steps aside if it aggregates
  uint64_t compiled_outside_calls = 0;  // how often compiled code was entered outside of all module calls
  int64_t duration_ns = 0;
  int64_t origin_unix_ns = 0;                  // wall clock at time 0 of the trace
  std::array<int64_t, kPhases> phase_times{};  // nanoseconds by Phase, of a recording without steps
  std::string device_failure;                  // after which the device was not recorded; empty: none
  size_t shapes_kept = 0;                      // of each op in each module, if it aggregates
  bool beside_profiler = false;                // a profiler of PyTorch's took reports of memory meanwhile
};

class Session {
 public:
  // `device` may be nullptr. It was made before, because that takes too long to be part of the recording.
  Session(const Options& options, std::unique_ptr<DeviceRecorder> device);
  ~Session() = default;  // destroys the members in the opposite order of their construction

  void mark(const std::string& name) noexcept;
  void begin_step(int32_t number, bool warmup);
  void end_step(bool may_wait);
  void observe_new_classes();
  // Waits for the sums of the step before.
  void move_modules(const NewAddresses& addresses);
  // The object has this attribute until the recording ends.
  void replace(PyObject* object, PyObject* name, PyObject* value) { replaced_.emplace_back(object, name, value); }
  int64_t bytes() const { return logs_.bytes() + (sums_ ? sums_->bytes() : 0); }  // taken by what was recorded so far
  std::optional<StepSums>& sums() { return sums_; }

  // These release the GIL while they wait for the device: `may_wait` is that of DeviceRecorder.
  void settle_device(bool may_wait);
  void stop_device(bool may_wait);

  // Comes after stop_device(). `held`: by the model, now.
  Recorded stop(const std::vector<Held>& held);

 private:
  void aggregate_step();
  EndedStep ended(EndedLogs logs, DeviceReport report, ClockReading end);

  const uint64_t main_thread_;  // PyTorch's id of this thread
  const ClockReading begin_;
  const int64_t origin_unix_ns_;
  const std::shared_ptr<const OpClasses> classes_;
  const bool memory_requested_;
  const bool stacks_requested_;
  std::vector<Held> held_;
  Moments moments_;
  uint64_t marks_lost_ = 0;
  ThreadLogs logs_;
  Share marks_{logs_.budget()};
  std::optional<StepSums> sums_;  // with `aggregate`
  std::string device_failure_;
  std::optional<StackObserver> stacks_;
  std::optional<MemoryObserver> memory_;
  std::optional<MetaAllocator> meta_;
  std::optional<OpObserver> ops_;
  std::optional<CountedOpObserver> counted_ops_;
  std::optional<CompiledCodeObserver> compiled_code_;
  std::optional<AheadOfTimeObserver> ahead_of_time_;
  std::optional<ModuleObserver> modules_;
  std::optional<FunctionRanges> functions_;
  std::list<ReplacedAttribute> replaced_;
  std::optional<DeviceLog> device_log_;
  std::unique_ptr<DeviceRecorder> device_;
};

// What ops are to recordings that start from now on.
void set_op_classes(OpClasses classes);

// The process has at most one session. `owner` is an object that stands for whoever began it, which the session keeps alive: where
// nobody else does, nobody is left who could end it, and the next start() takes its place. The thread that started a session ends it,
// or any thread when that one is gone. These throw std::runtime_error with what is wrong and what to do about it. start() also throws
// DeviceRecorderError.
void start(PyObject* owner, const Options& options);
Session& current();
Recorded stop(PyObject* owner, const std::vector<Held>& held, bool may_wait);
// Ends the session of this owner without its tables, if there is one. False: another thread has to.
bool abandon(PyObject* owner) noexcept;
// False in a fork of a process that is recording.
bool is_recording();
bool is_recording(PyObject* owner);

}  // namespace torchprof
