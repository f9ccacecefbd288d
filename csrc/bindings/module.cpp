// The boundary: crossed once to start, once to stop. Tables become numpy arrays that own their rows; nothing is copied
// and there is no Python object per event. The only file that includes pybind11.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <torch/csrc/autograd/python_variable.h>

#include <algorithm>

#include "allocator/replay.h"
#include "allocator/caching_allocator.h"
#include "device/cupti/api.h"
#include "record/pause.h"
#include "session/session.h"
#include "record/tensor_reader.h"

namespace py = pybind11;
using namespace py::literals;

namespace torchprof {
namespace {

template <typename Row>
py::array take(std::vector<Row>&& rows) {
  auto* const owned = new std::vector<Row>(std::move(rows));
  const py::capsule owner(owned, [](void* vector) { delete static_cast<std::vector<Row>*>(vector); });
  return py::array_t<Row>({owned->size()}, {sizeof(Row)}, owned->data(), owner);
}

py::dict tables_to_python(Tables&& tables) {
  return py::dict("ops"_a = take(std::move(tables.ops)), "operands"_a = take(std::move(tables.operands)),
                  "tensors"_a = take(std::move(tables.tensors)), "signatures"_a = take(std::move(tables.signatures)),
                  "shapes"_a = take(std::move(tables.shapes)), "dims"_a = take(std::move(tables.dims)),
                  "module_calls"_a = take(std::move(tables.module_calls)), "modules"_a = take(std::move(tables.modules)),
                  "allocations"_a = take(std::move(tables.allocations)),
                  "allocator_totals"_a = take(std::move(tables.allocator_totals)), "kernels"_a = take(std::move(tables.kernels)),
                  "runtime_calls"_a = take(std::move(tables.runtime_calls)), "marks"_a = take(std::move(tables.marks)),
                  "steps"_a = take(std::move(tables.steps)), "op_totals"_a = take(std::move(tables.op_totals)),
                  "call_totals"_a = take(std::move(tables.call_totals)),
                  "kernel_totals"_a = take(std::move(tables.kernel_totals)), "threads"_a = take(std::move(tables.threads)));
}

py::dict losses_to_python(const Losses& losses) {
  return py::dict("ops"_a = losses.ops, "operands"_a = losses.operands, "module_calls"_a = losses.module_calls,
                  "allocations"_a = losses.allocations, "kernels"_a = losses.kernels, "unmatched_ends"_a = losses.unmatched_ends);
}

// (address, bytes, module, type, uses, device_type, device_index, at_end), as in Held.
using HeldTuple = std::tuple<uint64_t, int64_t, uint64_t, std::string, uint16_t, int8_t, int8_t, bool>;

std::vector<Held> held_from_python(const std::vector<HeldTuple>& held) {
  std::vector<Held> items;
  items.reserve(held.size());
  for (const auto& item : held) {
    items.push_back(std::make_from_tuple<Held>(item));
  }
  return items;
}

void start_recording(bool ops, bool shapes, bool memory, int64_t budget_bytes, const py::object& module_class,
                     OpNames ops_with_arguments, OpNames counted_ops, bool fold, const std::string& gpu, int8_t device_type,
                     const std::vector<HeldTuple>& held) {
  Options options;
  options.ops = ops;
  options.shapes = shapes;
  options.memory = memory;
  options.budget_bytes = budget_bytes;
  options.module_class = module_class.is_none() ? nullptr : reinterpret_cast<PyTypeObject*>(module_class.ptr());
  options.ops_with_arguments = std::move(ops_with_arguments);
  options.counted_ops = std::move(counted_ops);
  options.fold = fold;
  options.cupti = gpu == "cupti";
  if (gpu == "events") {
    options.events = static_cast<c10::DeviceType>(device_type);
  }
  options.held = held_from_python(held);
  start(options);
}

py::tuple stop_recording(const std::vector<HeldTuple>& held, bool may_wait) {
  Recorded recorded = stop(held_from_python(held), may_wait);
  const py::list strings = py::cast(recorded.tables.strings);
  const py::dict facts("duration_ns"_a = recorded.duration_ns, "origin_unix_ns"_a = recorded.origin_unix_ns,
                       "gpu_clock_error_ns"_a = recorded.tables.device_clock_error,
                       "gpu_failure"_a = recorded.device_failure,
                       "gpu_interrupted"_a = recorded.tables.devices_interrupted,
                       "losses"_a = losses_to_python(recorded.tables.losses),
                       "unobserved_classes"_a = recorded.unobserved_classes);
  return py::make_tuple(tables_to_python(std::move(recorded.tables)), strings, facts);
}

// For tests of the collator: drives one ThreadLog per list of events, with the times they name as ticks of one nanosecond.
//   ("op", key, time, name, sequence_nr, forward_thread, scope)      ("end", key, time)
//   ("call", time, address, type)                                    ("return", time)
//   ("tensor", dims, storage)   an input of the op that began last   ("memory", time, address, bytes)
//   ("launch", time, correlation)
// Kernels are (correlation, start, end, name).
py::tuple collate_events(const std::vector<py::list>& threads, int64_t budget_bytes,
                         const std::vector<std::tuple<uint32_t, int64_t, int64_t, std::string>>& kernels) {
  Budget budget(budget_bytes);
  std::vector<std::unique_ptr<ThreadLog>> logs;
  const OpNames none;
  DeviceReport devices;
  const auto name = [&](const std::string& text) {
    devices.names.push_back(text);
    return static_cast<uint32_t>(devices.names.size() - 1);
  };
  for (const auto& [correlation, start, end, text] : kernels) {
    Kernel kernel{};
    kernel.start = start;
    kernel.end = end;
    kernel.name = name(text);
    kernel.runtime_call = static_cast<int32_t>(correlation);
    kernel.op = kernel.module_call = kNoRow;
    devices.kernels.push_back(kernel);
  }
  for (const py::list& events : threads) {
    const auto thread = static_cast<uint16_t>(logs.size());
    logs.push_back(std::make_unique<ThreadLog>(budget, thread, Thread{thread + uint64_t{1}, thread}, none, thread + uint64_t{1}));
    ThreadLog& log = *logs.back();
    Op* latest = nullptr;
    for (const py::handle& item : events) {
      const auto event = item.cast<py::tuple>();
      const auto kind = event[0].cast<std::string>();
      const auto integer = [&](size_t i) { return event[i].cast<int64_t>(); };
      if (kind == "op") {
        latest = log.open_op(reinterpret_cast<const void*>(integer(1)));
        if (latest != nullptr) {
          latest->start = integer(2);
          latest->signature = log.strings.id(std::string_view(event[3].cast<std::string>()));
          latest->sequence_nr = integer(4);
          latest->forward_thread = event[5].cast<uint32_t>();
          latest->scope = event[6].cast<uint8_t>();
        }
      } else if (kind == "end") {
        if (Op* const op = log.close_op(reinterpret_cast<const void*>(integer(1))).op) {
          op->end = integer(2);
        }
      } else if (kind == "call") {
        if (ModuleCall* const call = log.open_call(event[2].cast<uint64_t>(), event[3].cast<std::string>().c_str())) {
          call->start = integer(1);
        }
      } else if (kind == "return") {
        if (ModuleCall* const call = log.close_call()) {
          call->end = integer(1);
        }
      } else if (kind == "tensor") {
        const auto dims = event[1].cast<std::vector<int64_t>>();
        Tensor tensor{};
        tensor.storage = event[2].cast<uint64_t>();
        tensor.storage_bytes = 4;
        if (latest != nullptr && log.add_operand(tensor, dims.data(), dims.size())) {
          ++latest->n_inputs;
        }
      } else if (kind == "memory") {
        log.memory_event(integer(1), event[2].cast<uint64_t>(), integer(3), 0, -1);
      } else if (kind == "launch") {
        RuntimeCall call{};
        call.start = call.end = integer(1);
        call.name = name("launch");
        call.op = thread + 1;
        call.correlation = event[2].cast<uint32_t>();
        devices.runtime_calls.push_back(call);
      } else {
        throw std::invalid_argument("unknown event " + kind);
      }
    }
  }
  Outstanding outstanding;
  Tables tables = collate(logs, std::move(devices), {{}, {}, {}, true, TickConverter({0, 0}, {1, 1}), INT32_MAX}, outstanding);
  const py::list strings = py::cast(tables.strings);
  const py::dict losses = losses_to_python(tables.losses);
  return py::make_tuple(tables_to_python(std::move(tables)), strings, losses);
}

py::dict layouts() {
  return py::dict("ops"_a = py::dtype::of<Op>(), "operands"_a = py::dtype::of<int32_t>(),
                  "tensors"_a = py::dtype::of<Tensor>(), "signatures"_a = py::dtype::of<Signature>(),
                  "shapes"_a = py::dtype::of<Shape>(), "dims"_a = py::dtype::of<int64_t>(),
                  "module_calls"_a = py::dtype::of<ModuleCall>(), "modules"_a = py::dtype::of<Module>(),
                  "allocations"_a = py::dtype::of<Allocation>(),
                  "allocator_totals"_a = py::dtype::of<AllocatorTotal>(), "kernels"_a = py::dtype::of<Kernel>(),
                  "runtime_calls"_a = py::dtype::of<RuntimeCall>(), "marks"_a = py::dtype::of<Mark>(),
                  "steps"_a = py::dtype::of<Step>(), "op_totals"_a = py::dtype::of<OpTotal>(),
                  "call_totals"_a = py::dtype::of<CallTotal>(), "kernel_totals"_a = py::dtype::of<KernelTotal>(),
                  "threads"_a = py::dtype::of<Thread>());
}

const at::Tensor& unpack(const py::object& object) {
  if (!PyType_IsSubtype(Py_TYPE(object.ptr()), reinterpret_cast<PyTypeObject*>(THPVariableClass))) {
    throw py::type_error("a tensor is needed");
  }
  return THPVariable_Unpack(object.ptr());
}

// Address, bytes, device type and device index of the storage of a tensor, as a recording names them.
py::tuple storage(const py::object& object) {
  Tensor row{};
  read_storage(*unpack(object).unsafeGetTensorImpl(), row);
  return py::make_tuple(row.storage, row.storage_bytes, row.device_type, row.device_index);
}

// References held to a tensor and to its storage: they grow where a graph keeps one of the two.
py::tuple use_counts(const py::object& object) {
  const at::Tensor& tensor = unpack(object);
  return py::make_tuple(tensor.use_count(), tensor.unsafeGetTensorImpl()->unsafe_storage().use_count());
}

// Which of these pairs of dictionaries differ, by the identity of keys and values and by order. Asks no object whether it
// equals another: among the values are tensors.
std::vector<size_t> changed(const py::list& pairs) {
  std::vector<size_t> rows;
  for (size_t row = 0; row < pairs.size(); ++row) {
    PyObject* const now = PyTuple_GET_ITEM(PyList_GET_ITEM(pairs.ptr(), row), 0);
    PyObject* const before = PyTuple_GET_ITEM(PyList_GET_ITEM(pairs.ptr(), row), 1);
    bool same = PyDict_GET_SIZE(now) == PyDict_GET_SIZE(before);
    PyObject *key_now = nullptr, *key_before = nullptr, *value_now = nullptr, *value_before = nullptr;
    Py_ssize_t at_now = 0, at_before = 0;
    while (same && PyDict_Next(now, &at_now, &key_now, &value_now) &&
           PyDict_Next(before, &at_before, &key_before, &value_before)) {
      same = key_now == key_before && value_now == value_before;
    }
    if (!same) {
      rows.push_back(row);
    }
  }
  return rows;
}

// What a recording must leave as it was; the tests compare it before and after.
py::dict installed(const py::object& module_class) {
  return py::dict("recording"_a = is_recording(), "callbacks"_a = at::hasCallbacks(),
                  "profiler_slot"_a = MemoryObserver::slot_is_taken(),
                  "meta_allocator"_a = reinterpret_cast<uintptr_t>(c10::GetAllocator(c10::DeviceType::Meta)),
                  "classes"_a = ModuleObserver::observed_classes(reinterpret_cast<PyTypeObject*>(module_class.ptr())));
}

AllocatorSettings allocator_settings(const py::dict& given) {
  AllocatorSettings settings;
  settings.large_segment_size = given["large_segment_size"].cast<int64_t>();
  settings.max_split_size = given["max_split_size"].cast<int64_t>();
  settings.max_non_split_rounding = given["max_non_split_rounding"].cast<int64_t>();
  settings.roundup_power2_divisions = given["roundup_power2_divisions"].cast<decltype(settings.roundup_power2_divisions)>();
  settings.garbage_collection_threshold = given["garbage_collection_threshold"].cast<double>();
  settings.per_process_memory_fraction = given["per_process_memory_fraction"].cast<double>();
  settings.expandable_segments = given["expandable_segments"].cast<bool>();
  return settings;
}

// Rows of int64 as structs of as many, and back.
template <typename Row>
std::vector<Row> rows_of(const py::array_t<int64_t, py::array::c_style | py::array::forcecast>& array) {
  constexpr auto kColumns = static_cast<py::ssize_t>(sizeof(Row) / sizeof(int64_t));
  if (array.ndim() != 2 || array.shape(1) != kColumns) {
    throw py::value_error("an array of shape [n, " + std::to_string(kColumns) + "] is needed");
  }
  std::vector<Row> rows(static_cast<size_t>(array.shape(0)));
  std::copy_n(reinterpret_cast<const Row*>(array.data()), rows.size(), rows.begin());
  return rows;
}

// The results by name; "index" is the row of the event that ran out of memory, or -1.
py::dict simulate_caching_allocator(const py::array& events, const py::dict& settings, int64_t capacity,
                                    const py::array& blocks, bool timeline) {
  const auto rows = rows_of<AllocatorEvent>(events);
  const auto before = rows_of<BlockRow>(blocks);
  CachingAllocator allocator(allocator_settings(settings), capacity);
  AllocatorTimeline over_time;
  std::vector<BlockRow> after;
  int64_t index = -1;
  {
    const py::gil_scoped_release release;
    allocator.restore(before);
    index = replay(allocator, rows.data(), rows.size(), timeline ? &over_time : nullptr);
    after = allocator.blocks();
  }
  const AllocatorStats stats = allocator.stats();
  py::array_t<int64_t> left({static_cast<py::ssize_t>(after.size()), py::ssize_t{sizeof(BlockRow) / sizeof(int64_t)}});
  std::copy(after.begin(), after.end(), reinterpret_cast<BlockRow*>(left.mutable_data()));
  return py::dict("index"_a = index, "allocated"_a = stats.allocated, "allocated_peak"_a = stats.allocated_peak,
                  "reserved"_a = stats.reserved, "reserved_peak"_a = stats.reserved_peak, "requested"_a = stats.requested,
                  "active_blocks"_a = stats.active_blocks, "segments"_a = stats.segments,
                  "inactive_split"_a = stats.inactive_split, "inactive_split_blocks"_a = stats.inactive_split_blocks,
                  "device_allocs"_a = stats.device_allocs, "device_frees"_a = stats.device_frees, "retries"_a = stats.retries,
                  "blocks"_a = left, "allocated_after"_a = take(std::move(over_time.allocated)),
                  "reserved_after"_a = take(std::move(over_time.reserved)),
                  "addresses"_a = take(std::move(over_time.addresses)));
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  PYBIND11_NUMPY_DTYPE(Op, start, end, sequence_nr, signature, parent, module_call, inputs, outputs, forward_thread, n_inputs,
                       n_outputs, thread, scope, flags);
  PYBIND11_NUMPY_DTYPE(Tensor, storage, storage_bytes, shape, dtype, device_type, device_index, flags);
  PYBIND11_NUMPY_DTYPE(Signature, name, inputs, outputs, arguments, results, n_inputs, n_outputs);
  PYBIND11_NUMPY_DTYPE(ModuleCall, start, end, module, parent, op, inputs, outputs, n_inputs, n_outputs, thread, flags);
  PYBIND11_NUMPY_DTYPE(Module, address, type);
  PYBIND11_NUMPY_DTYPE(Allocation, start, end, address, bytes, op, free_op, module_call, module, thread, device_type,
                       device_index, uses);
  PYBIND11_NUMPY_DTYPE(AllocatorTotal, time, allocated, reserved, unreported, device_type, device_index);
  PYBIND11_NUMPY_DTYPE(Kernel, start, end, bytes, name, runtime_call, op, module_call, stream, grid, block, registers,
                       shared_memory, graph, device_type, device_index, kind, direction, phase);
  PYBIND11_NUMPY_DTYPE(RuntimeCall, start, end, name, op, module_call, correlation, thread, kind, phase);
  PYBIND11_NUMPY_DTYPE(Step, start, end, allocated, peak, held, busy, number, kernels, warmup);
  PYBIND11_NUMPY_DTYPE(OpTotal, count, time, self_time, min, max, allocated, device_time, device_self, kernels, signature,
                       module, phase, nested, wrapper);
  PYBIND11_NUMPY_DTYPE(KernelTotal, count, time, min, max, bytes, name, op, module, device_type, device_index, kind, direction,
                       phase, in_graph);
  PYBIND11_NUMPY_DTYPE(CallTotal, count, time, self_time, min, max, module, caller, recomputed);
  PYBIND11_NUMPY_DTYPE(Mark, time, name);
  PYBIND11_NUMPY_DTYPE(Shape, first, ndim);
  PYBIND11_NUMPY_DTYPE(Thread, torch_id, native_id);

  py::register_exception<cupti::Error>(m, "CuptiError");
  py::register_exception<EventObserver::Refused>(m, "EventsError");

  m.def("start", &start_recording, py::kw_only(), "ops"_a, "shapes"_a, "memory"_a, "budget_bytes"_a, "module_class"_a,
        "ops_with_arguments"_a, "counted_ops"_a, "fold"_a, "gpu"_a, "device_type"_a, "held"_a);
  m.def("stop", &stop_recording, "held"_a, "may_wait"_a = true);
  m.def("mark", [](const std::string& name) { current().mark(name); }, "name"_a, py::pos_only());
  m.def("begin_step", [](int32_t number, bool warmup) { current().begin_step(number, warmup); }, "number"_a, "warmup"_a);
  m.def("end_step", [](bool may_wait) { current().end_step(may_wait); }, "may_wait"_a = true);
  m.def("bytes", [] { return current().bytes(); });
  m.def("observe_new_classes", [] { current().observe_new_classes(); });
  m.def("is_recording", &is_recording);
  m.def("storage", &storage, "tensor"_a, py::pos_only());
  m.def("real_peak", &take_real_peak);
  m.def("adds_gradients", &adds_gradients);
  m.def("begin_kernel", &begin_kernel);
  m.def("end_kernel", [](const std::vector<py::object>& results, int64_t workspace) {
    end_kernel();
    for (const py::object& result : results) {
      if (c10::StorageImpl* const storage = unpack(result).unsafeGetTensorImpl()->unsafe_storage().unsafeGetStorageImpl()) {
        report_result(*storage);
      }
    }
    if (workspace > 0) {
      report_workspace(workspace);
    }
  }, "results"_a, "workspace"_a, py::pos_only());
  m.def("use_counts", &use_counts, "tensor"_a, py::pos_only());
  m.def("changed", &changed, "pairs"_a, py::pos_only());
  m.def("layouts", &layouts);
  m.def("installed", &installed, "module_class"_a, py::pos_only());
  m.def("collate_events", &collate_events, "threads"_a, "budget_bytes"_a, "kernels"_a = py::list());
  m.def("simulate_caching_allocator", &simulate_caching_allocator, "events"_a, "settings"_a, "capacity"_a, "blocks"_a,
        "timeline"_a);
}

}  // namespace torchprof
