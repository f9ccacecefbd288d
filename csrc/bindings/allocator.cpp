// The simulated caching allocator, for torchprof/allocator/replay.py.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "allocator/caching_allocator.h"
#include "allocator/replay.h"
#include "bindings/arrays.h"
#include "bindings/bindings.h"

namespace torchprof::bindings {

namespace py = pybind11;
using namespace py::literals;

namespace {

AllocatorSettings settings_from_python(const py::dict& given) {
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

// An array of int64 of shape [n, columns] as structs with as many fields.
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
  CachingAllocator allocator(settings_from_python(settings), capacity);
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
                  "blocks"_a = left, "allocated_after"_a = to_array(std::move(over_time.allocated)),
                  "reserved_after"_a = to_array(std::move(over_time.reserved)),
                  "addresses"_a = to_array(std::move(over_time.addresses)));
}

}  // namespace

void define_allocator(py::module_& module) {
  module.def("simulate_caching_allocator", &simulate_caching_allocator, "events"_a, "settings"_a, "capacity"_a, "blocks"_a,
             "timeline"_a);
}

}  // namespace torchprof::bindings
