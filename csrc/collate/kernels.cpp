#include "collate/kernels.h"

#include <algorithm>
#include <unordered_map>
#include <utility>

#include "collate/attribution.h"
#include "collate/intervals.h"

namespace torchprof {
namespace {

// Rows of one thread, in order of their start and with parents first.
struct Range {
  int32_t first = 0;
  int32_t last = 0;
};

template <typename Row>
std::vector<Range> by_thread(const std::vector<Row>& rows, size_t threads) {
  std::vector<Range> ranges(threads);
  for (size_t row = 0; row < rows.size(); ++row) {
    Range& range = ranges[rows[row].thread];
    if (range.last == 0) {
      range.first = static_cast<int32_t>(row);
    }
    range.last = static_cast<int32_t>(row) + 1;
  }
  return ranges;
}

// The innermost row that was open at a time: the last one that began before, or the nearest one around it that had not ended. If the
// end of a row was not seen, the nearest row around it with an end decides. (A user range may end after the op that it began in.)
template <typename Row>
int32_t open_at(const std::vector<Row>& rows, Range range, int64_t time) {
  const auto begin = rows.begin() + range.first;
  const auto after =
      std::upper_bound(begin, rows.begin() + range.last, time, [](int64_t time, const Row& row) { return time < row.start; });
  if (after == begin) {
    return kNoRow;
  }
  auto open = static_cast<int32_t>(after - rows.begin()) - 1;
  for (int32_t row = open; row != kNoRow; row = rows[row].parent) {
    if (rows[row].end >= time) {
      return open;
    }
    if (rows[row].end != kNever) {
      open = rows[row].parent;
    }
  }
  return open;
}

class CallAttribution {
 public:
  CallAttribution(const Tables& tables, const std::vector<uint32_t>& threads)
      : tables_(tables), ops_(by_thread(tables.ops, threads.size())), calls_(by_thread(tables.module_calls, threads.size())) {
    for (size_t thread = 0; thread < threads.size(); ++thread) {
      threads_.emplace(threads[thread], static_cast<uint16_t>(thread));
    }
  }

  // The driver reports half of a thread's id. If two threads have the same half, the call is attributed to the one with an open op or
  // module call.
  void attribute(RuntimeCall& call) const {
    const auto [first, last] = threads_.equal_range(static_cast<uint32_t>(std::exchange(call.op, kNoRow)));
    call.thread = kNoThread;
    for (auto found = first; found != last; ++found) {
      call.thread = found->second;
      call.op = open_at(tables_.ops, ops_[call.thread], call.start);
      call.module_call = open_at(tables_.module_calls, calls_[call.thread], call.start);
      if (call.op != kNoRow || call.module_call != kNoRow) {
        break;
      }
    }
    call.phase = static_cast<uint8_t>(find_module_call(call));
  }

 private:
  // A module that was called inside the op is nearer than the one that the op is attributed to. Returns the phase.
  Phase find_module_call(RuntimeCall& call) const {
    const bool called_inside = call.module_call != kNoRow && call.op != kNoRow &&
                               tables_.module_calls[call.module_call].start >= tables_.ops[call.op].start;
    if (call.op != kNoRow && !called_inside) {
      call.module_call = tables_.ops[call.op].module_call;
      return phase(tables_.ops[call.op]);
    }
    if (call.module_call == kNoRow) {
      return Phase::kOther;
    }
    return phase(tables_.module_calls[call.module_call]);
  }

  const Tables& tables_;
  const std::vector<Range> ops_;
  const std::vector<Range> calls_;
  std::unordered_multimap<uint32_t, uint16_t> threads_;
};

// The runtime calls the driver, and both may report the launch: the outermost call is kept. `op` is still the thread.
void keep_outermost(std::vector<RuntimeCall>& calls) {
  std::stable_sort(calls.begin(), calls.end(), [](const RuntimeCall& a, const RuntimeCall& b) {
    return a.correlation != b.correlation ? a.correlation < b.correlation : a.start < b.start;
  });
  const auto repeated = std::unique(calls.begin(), calls.end(), [](const RuntimeCall& a, const RuntimeCall& b) {
    return a.correlation == b.correlation && a.op == b.op && b.end <= a.end;
  });
  calls.erase(repeated, calls.end());
}

// Which runtime call launched a kernel. Up to CUDA 13.1, launches of graphs have wrong correlations in every recording of a process
// but the first. So a node of a graph whose correlation is not known is attributed to the latest launch of a graph before it.
class LaunchIndex {
 public:
  explicit LaunchIndex(const std::vector<RuntimeCall>& calls) : calls_(calls) {
    rows_.reserve(calls.size());
    for (size_t row = 0; row < calls.size(); ++row) {
      if (is(row, RuntimeCallKind::kGraphLaunch)) {
        graphs_.push_back(static_cast<int32_t>(row));
        graph_rows_.emplace(calls[row].correlation, static_cast<int32_t>(row));
      } else if (!is(row, RuntimeCallKind::kSynchronize) && !is(row, RuntimeCallKind::kMemory)) {
        rows_.emplace(calls[row].correlation, static_cast<int32_t>(row));
      }
    }
  }

  int32_t launch_of(const Kernel& kernel) const {
    const auto correlation = static_cast<uint32_t>(kernel.runtime_call);
    if (const auto found = graph_rows_.find(correlation); found != graph_rows_.end()) {
      return found->second;
    }
    if (kernel.graph != 0) {
      const auto after = std::upper_bound(graphs_.begin(), graphs_.end(), kernel.start,
                                          [this](int64_t time, int32_t row) { return time < calls_[row].start; });
      return after != graphs_.begin() ? *std::prev(after) : kNoRow;
    }
    const auto found = rows_.find(correlation);
    return found != rows_.end() ? found->second : kNoRow;
  }

 private:
  bool is(size_t row, RuntimeCallKind kind) const { return calls_[row].kind == static_cast<uint8_t>(kind); }

  const std::vector<RuntimeCall>& calls_;
  std::vector<int32_t> graphs_;  // launches of graphs, in order of their start
  std::unordered_map<uint32_t, int32_t> graph_rows_;
  std::unordered_map<uint32_t, int32_t> rows_;
};

// A kernel belongs to the step in which it was launched.
class Steps {
 public:
  explicit Steps(std::vector<Step>& steps) : steps_(steps), until_(steps.size(), INT64_MIN) {}

  // Kernels come in order of their start, so that time in which several run is counted once.
  void add(const Kernel& kernel, int64_t launched_at) {
    const auto after = std::upper_bound(steps_.begin(), steps_.end(), launched_at,
                                        [](int64_t time, const Step& step) { return time < step.start; });
    if (after == steps_.begin() || std::prev(after)->end <= launched_at) {
      return;
    }
    Step& step = *std::prev(after);
    int64_t& until = until_[static_cast<size_t>(std::prev(after) - steps_.begin())];
    ++step.kernels;
    step.busy += std::max<int64_t>(0, kernel.end - std::max(kernel.start, until));
    until = std::max(until, kernel.end);
  }

 private:
  std::vector<Step>& steps_;
  std::vector<int64_t> until_;
};

}  // namespace

int64_t attribute_kernels(Tables& tables, DeviceReport&& report, const std::vector<uint32_t>& threads) {
  std::vector<RuntimeCall>& calls = tables.runtime_calls = std::move(report.runtime_calls);
  std::vector<Kernel>& kernels = tables.kernels = std::move(report.kernels);
  keep_outermost(calls);
  std::stable_sort(calls.begin(), calls.end(), [](const RuntimeCall& a, const RuntimeCall& b) { return a.start < b.start; });
  std::stable_sort(kernels.begin(), kernels.end(), [](const Kernel& a, const Kernel& b) { return a.start < b.start; });

  const CallAttribution attribution(tables, threads);
  for (RuntimeCall& call : calls) {
    attribution.attribute(call);
  }
  const LaunchIndex launches(calls);

  Steps steps(tables.steps);
  int64_t too_early = 0;
  for (Kernel& kernel : kernels) {
    if (kernel.kind == static_cast<uint8_t>(Activity::kInterval)) {
      const int64_t launched_at = attribute_interval(tables, kernel);
      too_early = std::max(too_early, launched_at - kernel.start);
      steps.add(kernel, launched_at);
      continue;
    }
    kernel.runtime_call = launches.launch_of(kernel);
    if (kernel.runtime_call != kNoRow) {
      const RuntimeCall& call = calls[kernel.runtime_call];
      kernel.op = call.op;
      kernel.module_call = call.module_call;
      kernel.phase = call.phase;
      too_early = std::max(too_early, call.start - kernel.start);
    }
    steps.add(kernel, kernel.runtime_call != kNoRow ? calls[kernel.runtime_call].start : kernel.start);
  }
  return too_early;
}

DeviceTimes device_times(const Tables& tables) {
  DeviceTimes times{std::vector<int64_t>(tables.ops.size()), {}, std::vector<int64_t>(tables.ops.size())};
  for (const Kernel& kernel : tables.kernels) {
    if (kernel.op != kNoRow) {
      times.self[kernel.op] += kernel.end - kernel.start;
      ++times.kernels[kernel.op];
    }
  }
  times.total = times.self;
  for (size_t row = tables.ops.size(); row-- > 0;) {  // an op has a lower row than the ops inside it
    if (const int32_t parent = tables.ops[row].parent; parent != kNoRow) {
      times.total[parent] += times.total[row];
    }
  }
  return times;
}

}  // namespace torchprof
