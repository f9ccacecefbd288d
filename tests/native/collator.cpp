// Drives collate() without a recording: a Python extension that is built for tests only, from the pure sources in csrc/trace/ and
// csrc/collate/. Tables are returned as bytes: pybind11 can register the dtype of a struct once per process, and torchprof._C does.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstring>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "collate/collate.h"
#include "trace/flat_map.h"

namespace py = pybind11;
using namespace py::literals;
using namespace torchprof;

namespace {

uint32_t name_row(DeviceReport& devices, const std::string& name) {
  devices.names.push_back(name);
  return static_cast<uint32_t>(devices.names.size() - 1);
}

// What stands for the code that runs: a frame is a row of these.
std::vector<Place>& places() {
  static std::vector<Place> rows;
  return rows;
}

bool describe(const FrameRead& frame, Place& place) {
  place = places()[reinterpret_cast<size_t>(frame.executable)];
  return true;
}

// Does to a log, and to the report of a device, what observers do for one event.
class Events {
 public:
  Events(ThreadLog& log, DeviceReport& devices) : log_(log), devices_(devices) {}

  void apply(const py::tuple& event) {
    const auto kind = event[0].cast<std::string>();
    const auto integer = [&](size_t i) { return event[i].cast<int64_t>(); };
    if (kind == "op") {
      op_ = log_.open_op(reinterpret_cast<const void*>(integer(1)), event[3].cast<std::string>().c_str());
      if (op_ != nullptr) {
        op_->start = integer(2);
        op_->sequence_nr = integer(4);
        op_->forward_thread = event[5].cast<uint32_t>();
        op_->scope = event[6].cast<uint8_t>();
      }
      if (log_.tree != nullptr) {
        const auto* const around = log_.op_with_stack_of(position_, 1);
        log_.place_op(position_, around != nullptr ? around->stack : stack());
      }
    } else if (kind == "end") {
      if (Op* const op = log_.close_op(reinterpret_cast<const void*>(integer(1))).op) {
        op->end = integer(2);
        op->outputs = log_.operands.size();
        for (const py::handle& output : py::list(event.size() > 3 ? event[3] : py::list())) {
          op->n_outputs += add_tensor(output.cast<py::tuple>()) ? 1 : 0;
        }
      }
    } else if (kind == "call") {
      log_.open_call(event[2].cast<uint64_t>(), event[3].cast<std::string>().c_str());
      if (ModuleCall* const call = log_.opened_call()) {
        call->start = integer(1);
        call->stack = log_.tree != nullptr ? stack() : kNoRow;
      }
    } else if (kind == "return") {
      if (ModuleCall* const call = log_.close_call()) {
        call->end = integer(1);
      }
    } else if (kind == "tensor") {
      if (op_ != nullptr && add_tensor(event)) {
        ++op_->n_inputs;
      }
    } else if (kind == "memory") {
      const uint32_t of_block = log_.tree != nullptr ? log_.stack_of_memory(stack()) : kStackOfOp;
      log_.memory_event(integer(1), event[2].cast<uint64_t>(), event[3].is_none() ? kUnknownFree : integer(3), 0, -1, of_block);
    } else if (kind == "reported") {
      log_.memory_event(integer(1), event[2].cast<uint64_t>(), integer(3), 0, -1, kStackOfOp, false, true);
    } else if (kind == "met") {
      log_.block_met(integer(1), event[2].cast<uint64_t>(), integer(3), event[4].cast<uint32_t>(),
                     static_cast<Ends>(integer(5)));
    } else if (kind == "gone") {
      log_.storage_ended(integer(1), event[2].cast<uint32_t>(), true, static_cast<Ends>(integer(3)));
    } else if (kind == "at") {
      frames_.clear();
      for (const py::handle& frame : event[1].cast<py::list>()) {
        const auto [function, file, first_line, line] = frame.cast<std::tuple<std::string, std::string, int32_t, int32_t>>();
        places().push_back({function, file, first_line, line});
        const size_t row = places().size() - 1;
        frames_.insert(frames_.begin(), {reinterpret_cast<const char*>(row), reinterpret_cast<void*>(row)});
      }
      position_ = {this, reinterpret_cast<const void*>(places().size())};
    } else if (kind == "launch") {
      RuntimeCall call{};
      call.start = call.end = integer(1);
      call.name = name_row(devices_, "launch");
      call.op = log_.thread() + 1;
      call.correlation = event[2].cast<uint32_t>();
      devices_.runtime_calls.push_back(call);
    } else {
      throw std::invalid_argument("unknown event " + kind);
    }
  }

 private:
  int32_t stack() {
    log_.tree->frames = frames_;
    const int32_t node = log_.tree->node(false, 0, &describe, log_.tree_rows, log_.strings);
    log_.stacks_lost += log_.tree->is_full() ? 1 : 0;
    return node;
  }

  bool add_tensor(const py::tuple& event) {
    const auto dims = event[1].cast<std::vector<int64_t>>();
    Tensor tensor{};
    tensor.storage = event[2].cast<uint64_t>();
    tensor.storage_bytes = 4;
    for (const int64_t size : dims) {
      tensor.storage_bytes *= size;
    }
    return log_.add_operand(tensor, dims.data(), dims.size());
  }

  ThreadLog& log_;
  DeviceReport& devices_;
  Op* op_ = nullptr;  // the one that began last
  std::vector<FrameRead> frames_;
  Position position_;
};

template <typename Row>
py::array_t<uint8_t> to_bytes(const std::vector<Row>& rows) {
  py::array_t<uint8_t> bytes(static_cast<py::ssize_t>(rows.size() * sizeof(Row)));
  if (!rows.empty()) {
    std::memcpy(bytes.mutable_data(), rows.data(), rows.size() * sizeof(Row));
  }
  return bytes;
}

// One ThreadLog per list of events, whose times are ticks of one nanosecond:
//
//   ("op", key, time, name, sequence_nr, forward_thread, scope)      ("end", key, time[, outputs: each as an input])
//   ("call", time, address, type)                                    ("return", time)
//   ("tensor", dims, storage)   an input of the op that began last   ("memory", time, address, bytes)
//   ("launch", time, correlation)                               ("reported", time, address, bytes)
//   ("met", time, address, bytes, storage, ends)                     ("gone", time, storage, ends)
//   ("at", [(function, file, first line, line), ...])   where the thread is from now on, the outermost frame first: with `stacks`
//
// A free whose size is not known has None for bytes.
//
// Kernels are (correlation, start, end, name), steps (start, end), what the model holds (address, bytes, module). The first thread is the one that records. Returns the tables by name,
// their strings, the losses, and the self times of ops and of calls.
py::tuple collate_events(const std::vector<py::list>& threads, int64_t budget_bytes,
                         const std::vector<std::tuple<uint32_t, int64_t, int64_t, std::string>>& kernels,
                         const std::vector<std::pair<int64_t, int64_t>>& steps, int64_t recording_ends,
                         const std::vector<std::tuple<uint64_t, int64_t, uint64_t>>& parameters, bool stacks) {
  Budget budget(budget_bytes);
  std::vector<std::unique_ptr<CallTree>> trees;
  std::vector<std::unique_ptr<ThreadLog>> logs;
  const OpClasses none;
  DeviceReport devices;
  for (const auto& [correlation, start, end, name] : kernels) {
    Kernel kernel{};
    kernel.start = start;
    kernel.end = end;
    kernel.name = name_row(devices, name);
    kernel.runtime_call = static_cast<int32_t>(correlation);
    kernel.op = kernel.module_call = kNoRow;
    devices.kernels.push_back(kernel);
  }
  for (const py::list& list : threads) {
    const auto thread = static_cast<uint16_t>(logs.size());
    const uint64_t id = thread + uint64_t{1};
    if (stacks) {
      trees.push_back(std::make_unique<CallTree>(budget, thread));
    }
    logs.push_back(
        std::make_unique<ThreadLog>(budget, thread, Thread{id, thread}, none, id, stacks ? trees.back().get() : nullptr));
    Events events(*logs.back(), devices);
    for (const py::handle& event : list) {
      events.apply(event.cast<py::tuple>());
    }
  }
  Moments moments;
  for (const auto& [start, end] : steps) {
    Step step{};
    step.start = start;
    step.end = end;
    moments.steps.push_back(step);
  }
  std::vector<Held> held;
  for (const auto& [address, bytes, module] : parameters) {
    held.push_back({address, bytes, module, "M", kParameter, 0, -1, false});
  }
  Carried carried{{}, {}, held_by_model(false, held), {}};
  const Context context{moments, held, none, true, TickConverter({0, 0}, {1, 1}), recording_ends, 1, false, stacks};
  auto [tables, times, allocated] = collate(logs, std::move(devices), context, carried);
  py::dict arrays;
  for_each_table(tables, [&](const char* name, const auto& rows) { arrays[name] = to_bytes(rows); });
  py::dict losses;
  for_each_loss(tables.losses, [&](const char* name, uint64_t count) { losses[name] = count; });
  return py::make_tuple(arrays, tables.strings, losses, py::make_tuple(times.op_self, times.call_self));
}

// Keys are added with a value, changed, or with none erased. Returns what is left, and what was found for each key before its change.
py::tuple change_map(const std::vector<std::pair<uint64_t, std::optional<int64_t>>>& changes) {
  FlatMap<int64_t> map;
  std::vector<std::optional<int64_t>> found;
  for (const auto& [key, value] : changes) {
    const int64_t* const before = map.find(key);
    found.push_back(before != nullptr ? std::optional(*before) : std::nullopt);
    if (value) {
      map[key] = *value;
    } else {
      map.erase(key);
    }
  }
  py::dict left;
  map.for_each([&](uint64_t key, int64_t value) { left[py::int_(key)] = value; });
  return py::make_tuple(left, found, map.size());
}

}  // namespace

PYBIND11_MODULE(collator, m) {
  m.def("change_map", &change_map, "changes"_a);
  m.def("collate_events", &collate_events, "threads"_a, "budget_bytes"_a, "kernels"_a = py::list(), "steps"_a = py::list(),
        "recording_ends"_a = INT32_MAX, "parameters"_a = py::list(), "stacks"_a = false);
}
