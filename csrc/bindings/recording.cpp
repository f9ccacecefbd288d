// Starting, stepping and stopping a recording.
#include <ATen/record_function.h>
#include <pybind11/stl.h>
#include <torch/csrc/Storage.h>

#include <algorithm>
#include <optional>
#include <stdexcept>
#include <string>
#include <unordered_set>
#include <utility>
#include <vector>

#include "bindings/arrays.h"
#include "bindings/bindings.h"
#include "bindings/block.h"
#include "bindings/held.h"
#include "bindings/unread.h"
#include "session/session.h"

namespace torchprof::bindings {

namespace py = pybind11;
using namespace py::literals;

namespace {

std::vector<PyObject*> borrowed(const std::vector<py::object>& objects) {
  std::vector<PyObject*> pointers(objects.size());
  std::transform(objects.begin(), objects.end(), pointers.begin(), [](const py::object& each) { return each.ptr(); });
  return pointers;
}

void start_recording(const py::object& owner, bool ops, bool shapes, bool memory, int64_t budget_bytes,
                     const py::object& module_class, bool flops, bool flop_outputs, bool aggregate, const std::string& gpu,
                     int8_t device_type, const HeldByModel& held, const py::object& evaluator_switch,
                     const py::object& on_evaluator, const std::vector<py::object>& profiler_switches,
                     const py::object& loader_iter, const std::vector<py::object>& ahead_of_time,
                     const std::string& thread_name, const py::object& run_backward, const py::object& slice,
                     const std::string& stacks, const py::object& on_outermost_call, const std::vector<py::object>& runtimes) {
  Options options;
  options.ops = ops;
  options.shapes = shapes;
  options.memory = memory;
  options.budget_bytes = budget_bytes;
  options.module_class = module_class.is_none() ? nullptr : reinterpret_cast<PyTypeObject*>(module_class.ptr());
  options.on_outermost_call = on_outermost_call.is_none() ? nullptr : on_outermost_call.ptr();
  options.evaluator_switch = evaluator_switch.is_none() ? nullptr : evaluator_switch.ptr();
  options.profiler_switches = borrowed(profiler_switches);
  options.ahead_of_time = borrowed(ahead_of_time);
  options.runtimes = borrowed(runtimes);
  options.loader_iter = loader_iter.is_none() ? nullptr : loader_iter.ptr();
  options.run_backward = run_backward.is_none() ? nullptr : run_backward.ptr();
  options.on_evaluator = on_evaluator.is_none() ? nullptr : on_evaluator.ptr();
  options.flops = flops;
  options.flop_outputs = flop_outputs;
  options.aggregate = aggregate;
  options.thread_name = thread_name;
  options.stacks = stacks == "frames" ? StacksRead::kFromFrames : stacks == "api" ? StacksRead::kByApi : StacksRead::kNot;
  options.device_recorder = gpu;
  options.device_type = device_type;
  options.held = held.rows;
  options.slice = THPStorage_Check(slice.ptr()) ? THPStorage_Unpack(slice.ptr()).unsafeGetStorageImpl() : nullptr;
  start(owner.ptr(), options);
}

py::dict to_arrays(Tables& tables) {
  py::dict arrays;
  for_each_table(tables, [&](const char* name, auto& rows) { arrays[name] = to_array(std::move(rows)); });
  return arrays;
}

bool is_merge_due() {
  const std::optional<StepSums>& sums = current().sums();
  return sums && sums->is_merge_due();
}

// The sums so far: tables by name, and strings.
py::tuple sums() {
  Tables tables = current().sums().value().sums().totals.copy({});
  return py::make_tuple(to_arrays(tables), tables.strings);
}

// `registered`: the addresses of the modules of the model.
void merge_sums(std::vector<int64_t> flops, std::vector<double> moved, std::vector<uint8_t> unknown,
                const std::unordered_set<uint64_t>& registered) {
  Totals& totals = current().sums().value().sums().totals;
  if (flops.size() != moved.size() || flops.size() != unknown.size() || flops.size() != totals.op_rows()) {
    throw std::invalid_argument("merge_sums takes figures of every row of op_totals");
  }
  totals.merge({std::move(flops), std::move(moved), std::move(unknown)}, registered);
}

// What was recorded becomes that of the block: the tables by name, the strings that they refer to, and what else is known.
void stop_recording(const py::object& owner, const HeldByModel& held, bool may_wait, const Places* places) {
  auto& block = owner.cast<Block&>();
  Recorded recorded = stop(owner.ptr(), held.rows, may_wait);
  const bool stepped = !recorded.tables.steps.empty();
  const py::dict tables = to_arrays(recorded.tables);
  py::dict losses;
  for_each_loss(recorded.tables.losses, [&](const char* name, uint64_t count) { losses[name] = count; });
  const py::list strings = py::cast(recorded.tables.strings);
  py::dict facts("duration_ns"_a = recorded.duration_ns, "origin_unix_ns"_a = recorded.origin_unix_ns,
                 "gpu_clock_error_ns"_a = recorded.tables.device_clock_error, "gpu_failure"_a = recorded.device_failure,
                 "gpu_interrupted"_a = recorded.tables.devices_interrupted, "losses"_a = losses,
                 "beside_profiler"_a = recorded.beside_profiler, "shapes_kept"_a = recorded.shapes_kept,
                 "unobserved_classes"_a = recorded.unobserved_classes,
                 "compiled_outside_calls"_a = recorded.compiled_outside_calls,
                 "unread_modules"_a = places != nullptr ? unread_modules(recorded.storages_read, *places) : py::none());
  if (!stepped) {
    facts["phase_ns"] = recorded.phase_times;
  }
  block.recorded = py::make_tuple(tables, strings, facts);
}

// What a recording installs in this process. Tests compare it before and after. It reads the globals of this library, so it cannot be
// part of a library that is built for tests.
py::dict installed(const py::object& module_class) {
  return py::dict("recording"_a = is_recording(), "callbacks"_a = at::hasCallbacks(),
                  "profiler_slot"_a = ProfilerSlot::is_taken(), "profiler_switches"_a = ProfilerSlot::exists(),
                  "cpu_allocator"_a = reinterpret_cast<uintptr_t>(c10::GetAllocator(c10::DeviceType::CPU)),
                  "meta_allocator"_a = reinterpret_cast<uintptr_t>(c10::GetAllocator(c10::DeviceType::Meta)),
                  "function_hook"_a = FunctionHook::exists(), "code_hook"_a = StackObserver::exists(),
                  "classes"_a = ModuleObserver::observed_classes(reinterpret_cast<PyTypeObject*>(module_class.ptr())));
}

}  // namespace

void define_recording(py::module_& module) {
  py::register_exception<DeviceRecorderError>(module, "DeviceRecorderError");
  module.def(
      "start", &start_recording, "owner"_a, py::kw_only(), "ops"_a, "shapes"_a, "memory"_a, "budget_bytes"_a, "module_class"_a,
      "flops"_a, "flop_outputs"_a, "aggregate"_a, "gpu"_a, "device_type"_a, "held"_a, "evaluator_switch"_a = py::none(),
      "on_evaluator"_a = py::none(), "profiler_switches"_a = std::vector<py::object>(), "loader_iter"_a = py::none(),
      "ahead_of_time"_a = std::vector<py::object>(), "thread_name"_a = "", "run_backward"_a = py::none(),
      "slice"_a = py::none(), "stacks"_a = "off", "on_outermost_call"_a = py::none(), "runtimes"_a = std::vector<py::object>());
  module.def("stop", &stop_recording, "owner"_a, "held"_a, "may_wait"_a = true, "places"_a = nullptr);
  module.def("mark", [](const std::string& name) { current().mark(name); }, "name"_a, py::pos_only());
  module.def(
      "replace_attribute",
      [](const py::object& object, const py::str& name, const py::object& value) {
        current().replace(object.ptr(), name.ptr(), value.ptr());
      },
      "object"_a, "name"_a, "value"_a, py::pos_only());
  module.def("begin_step", [](int32_t number, bool warmup) { current().begin_step(number, warmup); }, "number"_a, "warmup"_a);
  module.def("end_step", [](bool may_wait) { current().end_step(may_wait); }, "may_wait"_a = true);
  module.def("is_merge_due", &is_merge_due);
  module.def("sums", &sums);
  module.def("merge_sums", &merge_sums, "flops"_a, "moved"_a, "unknown"_a, "registered"_a, py::pos_only());
  module.def("bytes", [] { return current().bytes(); });
  module.def("observe_new_classes", [] { current().observe_new_classes(); });
  module.def(
      "move_modules", [](const NewAddresses& addresses) { current().move_modules(addresses); }, "addresses"_a, py::pos_only());
  module.def(
      "is_recording", [](const py::object& owner) { return owner.is_none() ? is_recording() : is_recording(owner.ptr()); },
      "owner"_a = py::none());
  module.def("can_read_frames", &can_read_frames);
  module.def("installed", &installed, "module_class"_a, py::pos_only());
}

}  // namespace torchprof::bindings
