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

// The innermost row that was open: the last to have begun, or the nearest around it that had not ended. Where an end was not seen,
// the nearest around it whose end was tells. (A user range may outlive the op that it began in.)
template <typename Row>
int32_t open_at(const std::vector<Row>& rows, Range range, int64_t time) {
  const auto begin = rows.begin() + range.first;
  const auto after = std::upper_bound(begin, rows.begin() + range.last, time, [](int64_t time, const Row& row) { return time < row.start; });
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

class Join {
 public:
  Join(Tables& tables, const std::vector<uint32_t>& threads)
      : tables_(tables), ops_(by_thread(tables.ops, threads.size())), calls_(by_thread(tables.module_calls, threads.size())) {
    for (size_t thread = 0; thread < threads.size(); ++thread) {
      threads_.emplace(threads[thread], static_cast<uint16_t>(thread));
    }
  }

  // Ids are halves of the whole: where two threads share one, it was the one that was doing something.
  void place(RuntimeCall& call) const {
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
    call.phase = static_cast<uint8_t>(attribute(call));
  }

 private:
  // A module called inside the op is nearer than the one that the op worked for.
  Phase attribute(RuntimeCall& call) const {
    const bool called_inside = call.module_call != kNoRow && call.op != kNoRow &&
                               tables_.module_calls[call.module_call].start >= tables_.ops[call.op].start;
    if (call.op != kNoRow && !called_inside) {
      call.module_call = tables_.ops[call.op].module_call;
      return phase(tables_.ops[call.op]);
    }
    if (call.module_call == kNoRow) {
      return Phase::kOther;
    }
    return (tables_.module_calls[call.module_call].flags & kRecomputed) != 0 ? Phase::kRecomputation : Phase::kForward;
  }

  const Tables& tables_;
  const std::vector<Range> ops_;
  const std::vector<Range> calls_;
  std::unordered_multimap<uint32_t, uint16_t> threads_;
};

// The runtime calls the driver, which may report the same request again, inside: of such the outermost is kept. The thread is still
// in `op`.
void keep_outermost(std::vector<RuntimeCall>& calls) {
  std::stable_sort(calls.begin(), calls.end(), [](const RuntimeCall& a, const RuntimeCall& b) {
    return a.correlation != b.correlation ? a.correlation < b.correlation : a.start < b.start;
  });
  const auto repeated = std::unique(calls.begin(), calls.end(), [](const RuntimeCall& a, const RuntimeCall& b) {
    return a.correlation == b.correlation && a.op == b.op && b.end <= a.end;
  });
  calls.erase(repeated, calls.end());
}

// Which call asked for a kernel. Launches of graphs have wrong numbers in recordings after the first of a process, up to CUDA
// 13.1: a node of a graph is put down to a launch of one, by number or else the latest before.
class Asked {
 public:
  explicit Asked(const std::vector<RuntimeCall>& calls) : calls_(calls) {
    rows_.reserve(calls.size());
    for (size_t row = 0; row < calls.size(); ++row) {
      if (is(row, Request::kGraph)) {
        graphs_.push_back(static_cast<int32_t>(row));
        graph_rows_.emplace(calls[row].correlation, static_cast<int32_t>(row));
      } else if (!is(row, Request::kWait) && !is(row, Request::kMemory)) {
        rows_.emplace(calls[row].correlation, static_cast<int32_t>(row));
      }
    }
  }

  int32_t by(const Kernel& kernel) const {
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
  bool is(size_t row, Request request) const { return calls_[row].kind == static_cast<uint8_t>(request); }

  const std::vector<RuntimeCall>& calls_;
  std::vector<int32_t> graphs_;  // launches of graphs, in order of their start
  std::unordered_map<uint32_t, int32_t> graph_rows_;
  std::unordered_map<uint32_t, int32_t> rows_;
};

// A kernel works for the step in which it was asked for.
class Steps {
 public:
  explicit Steps(std::vector<Step>& steps) : steps_(steps), until_(steps.size(), INT64_MIN) {}

  // Kernels come in order of their start, so the time that several share is counted once.
  void add(const Kernel& kernel, int64_t asked_for) {
    const auto after = std::upper_bound(steps_.begin(), steps_.end(), asked_for, [](int64_t time, const Step& step) { return time < step.start; });
    if (after == steps_.begin() || std::prev(after)->end <= asked_for) {
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

int64_t join_kernels(Tables& tables, DeviceReport&& report, const std::vector<uint32_t>& threads) {
  std::vector<RuntimeCall>& calls = tables.runtime_calls = std::move(report.runtime_calls);
  std::vector<Kernel>& kernels = tables.kernels = std::move(report.kernels);
  keep_outermost(calls);
  std::stable_sort(calls.begin(), calls.end(), [](const RuntimeCall& a, const RuntimeCall& b) { return a.start < b.start; });
  std::stable_sort(kernels.begin(), kernels.end(), [](const Kernel& a, const Kernel& b) { return a.start < b.start; });

  const Join join(tables, threads);
  for (RuntimeCall& call : calls) {
    join.place(call);
  }
  const Asked asked(calls);

  Steps steps(tables.steps);
  int64_t too_early = 0;
  for (Kernel& kernel : kernels) {
    if (kernel.kind == static_cast<uint8_t>(Work::kInterval)) {
      const int64_t asked_for = attribute_interval(tables, kernel);
      too_early = std::max(too_early, asked_for - kernel.start);
      steps.add(kernel, asked_for);
      continue;
    }
    kernel.runtime_call = asked.by(kernel);
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
  for (size_t row = tables.ops.size(); row-- > 0;) {  // what is inside comes after what is around it
    if (const int32_t parent = tables.ops[row].parent; parent != kNoRow) {
      times.total[parent] += times.total[row];
    }
  }
  return times;
}

}  // namespace torchprof
