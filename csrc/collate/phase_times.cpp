#include "collate/phase_times.h"

#include <algorithm>
#include <iterator>

namespace torchprof {
namespace {

// A thread was in one phase. Where it is between ops, `waits`, other threads may work for it meanwhile.
struct Segment {
  int64_t start;
  int64_t end;
  Phase phase;
  bool waits;
};
using Segments = std::vector<Segment>;  // in order, without overlaps

// A range around the autograd engine was the innermost of its thread. That may be all that its thread does: waiting for the engine.
struct Wait {
  int64_t* self;
  int64_t start;
  int64_t end;
};

void append(Segments& segments, const Segment& segment) {
  if (segment.start >= segment.end) {
    return;
  }
  if (!segments.empty() && segments.back().end == segment.start && segments.back().phase == segment.phase &&
      segments.back().waits == segment.waits) {
    segments.back().end = segment.end;
  } else {
    segments.push_back(segment);
  }
}

// Follows the ops and calls of one thread, which are in the order of their start.
class Timeline {
 public:
  Timeline(const Tables& tables, PhaseTimes& times, int64_t end) : tables_(tables), times_(times), end_(end) {}

  Segments follow(FirstRows row, FirstRows last) {
    while (row.op < last.op || row.module_call < last.module_call) {
      if (row.module_call == last.module_call || (row.op < last.op && is_op_first(row.op, row.module_call))) {
        const Op& op = tables_.ops[row.op];
        const bool waits = op.scope == kUserScope &&
                           (phase(op) == Phase::kOther || phase(op) == Phase::kOptimizer || phase(op) == Phase::kBackward);
        const bool is_backward = phase(op) == Phase::kBackward;
        const bool in_backward = op.parent != kNoRow && phase(tables_.ops[op.parent]) == Phase::kBackward;
        const int64_t end = closed_end(tables_.ops, row.op);
        if (is_backward && op.parent == kNoRow && op.scope != kUserScope) {
          append(engine_, {engine_.empty() ? op.start : std::max(op.start, engine_.back().end), end, Phase::kBackward, false});
        }
        open(op.start, {end, &times_.op_self[row.op], phase(op), waits, waits && is_backward && !in_backward});
        ++row.op;
      } else {
        const ModuleCall& call = tables_.module_calls[row.module_call];
        open(call.start, {closed_end(tables_.module_calls, row.module_call), &times_.call_self[row.module_call], phase(call)});
        ++row.module_call;
      }
    }
    advance(end_, Phase::kOther);
    open_.clear();
    return std::move(segments_);
  }

  Segments engine() { return std::move(engine_); }         // in which an autograd engine worked on this thread of its own
  std::vector<Wait> waits() { return std::move(waits_); }  // of a thread that called one

 private:
  struct Open {
    int64_t end;
    int64_t* self;
    Phase phase;
    bool waits = false;
    bool calls_engine = false;
    Phase before = Phase::kOptimizer;  // of what ended last inside it
  };

  bool is_op_first(int32_t op, int32_t call) const {
    const int64_t of_op = tables_.ops[op].start, of_call = tables_.module_calls[call].start;
    return of_op < of_call || (of_op == of_call && tables_.module_calls[call].op == op);
  }

  // Where the end was not recorded: that of what is around it.
  template <typename Row>
  int64_t closed_end(const std::vector<Row>& rows, int32_t row) const {
    while (rows[row].end == kNever && rows[row].parent != kNoRow) {
      row = rows[row].parent;
    }
    return rows[row].end == kNever ? end_ : rows[row].end;
  }

  void open(int64_t start, const Open& span) {
    advance(start, span.phase);
    open_.push_back(span);
  }

  // What has ended by then is closed. A range that ends inside another one is found when that has ended. `next`: the phase of what
  // begins then.
  void advance(int64_t time, Phase next) {
    while (!open_.empty()) {
      const Open& top = open_.back();
      const bool ends = top.end <= time;
      const int64_t until = std::min(time, top.end);
      if (until > now_) {
        *top.self += until - now_;
        if (top.calls_engine) {
          waits_.push_back({top.self, now_, until});
        }
        // Around forward and backward in the step of an optimizer is the Python of its closure.
        const bool in_closure = top.waits && top.phase == Phase::kOptimizer &&
                                (top.before != Phase::kOptimizer || (!ends && next != Phase::kOptimizer));
        append(segments_, {now_, until, in_closure ? Phase::kOther : top.phase, top.waits});
        now_ = until;
      }
      if (!ends) {
        return;
      }
      const Phase ended = top.phase;
      open_.pop_back();
      if (!open_.empty()) {
        open_.back().before = ended;
      }
    }
    now_ = std::max(now_, time);
  }

  const Tables& tables_;
  PhaseTimes& times_;
  const int64_t end_;
  int64_t now_ = 0;
  std::vector<Open> open_;
  Segments segments_;
  Segments engine_;
  std::vector<Wait> waits_;
};

// The parts of `segments` that none of `others` covers.
Segments without(const Segments& segments, const Segments& others) {
  Segments left;
  auto other = others.begin();
  for (Segment segment : segments) {
    for (; other != others.end() && other->end <= segment.start; ++other) {
    }
    for (auto cut = other; cut != others.end() && cut->start < segment.end; ++cut) {
      append(left, {segment.start, std::min(cut->start, segment.end), segment.phase, segment.waits});
      segment.start = cut->end;
    }
    append(left, segment);
  }
  return left;
}

Segments merged(const Segments& a, const Segments& b) {
  Segments all;
  std::merge(a.begin(), a.end(), b.begin(), b.end(), std::back_inserter(all),
             [](const Segment& left, const Segment& right) { return left.start < right.start; });
  return all;
}

template <typename Condition>
Segments only(const Segments& segments, Condition condition) {
  Segments found;
  std::copy_if(segments.begin(), segments.end(), std::back_inserter(found), condition);
  return found;
}

// `main`, with what `others` do while it waits.
Segments with_others(const Segments& main, const Segments& others) {
  const Segments works = only(main, [](const Segment& segment) { return !segment.waits; });
  const Segments waits = only(main, [](const Segment& segment) { return segment.waits; });
  const Segments meanwhile = without(others, works);
  return merged(merged(works, meanwhile), without(waits, meanwhile));
}

std::array<int64_t, kPhases> times_within(const Segments& segments, int64_t start, int64_t end) {
  std::array<int64_t, kPhases> times{};
  auto segment = std::upper_bound(segments.begin(), segments.end(), start,
                                  [](int64_t time, const Segment& each) { return time < each.end; });
  int64_t left = end - start;
  for (; segment != segments.end() && segment->start < end; ++segment) {
    const int64_t time = std::min(end, segment->end) - std::max(start, segment->start);
    if (segment->phase != Phase::kOther) {
      times[static_cast<size_t>(segment->phase)] += time;
      left -= time;
    }
  }
  times[static_cast<size_t>(Phase::kOther)] = left;
  return times;
}

// Where a thread waits while the engine works on threads of its own, as it does on a GPU, its time is that of the engine's ops.
void take_off_waits(const std::vector<Segments>& engines, const std::vector<std::vector<Wait>>& waits) {
  for (size_t thread = 0; thread < waits.size(); ++thread) {
    Segments meanwhile;
    for (size_t other = 0; other < engines.size() && !waits[thread].empty(); ++other) {
      if (other != thread) {
        meanwhile = merged(meanwhile, without(engines[other], meanwhile));
      }
    }
    for (const Wait& wait : waits[thread]) {
      *wait.self -= times_within(meanwhile, wait.start, wait.end)[static_cast<size_t>(Phase::kBackward)];
    }
  }
}

}  // namespace

PhaseTimes find_phase_times(Tables& tables, const std::vector<FirstRows>& threads, uint64_t main, int64_t end) {
  PhaseTimes times;
  times.op_self.resize(tables.ops.size());
  times.call_self.resize(tables.module_calls.size());
  const FirstRows last{static_cast<int32_t>(tables.ops.size()), static_cast<int32_t>(tables.module_calls.size())};
  Segments of_main, of_others;
  std::vector<Segments> engines;
  std::vector<std::vector<Wait>> waits;
  for (size_t thread = 0; thread < threads.size(); ++thread) {
    Timeline timeline(tables, times, end);
    const Segments found = timeline.follow(threads[thread], thread + 1 < threads.size() ? threads[thread + 1] : last);
    engines.push_back(timeline.engine());
    waits.push_back(timeline.waits());
    if (tables.threads[thread].torch_id == main) {
      of_main = found;
    } else {
      // A thread of its own that waits for data, to have them ready, is nothing the step waits for.
      const Segments works =
          only(found, [](const Segment& segment) { return segment.phase != Phase::kOther && segment.phase != Phase::kData; });
      of_others = merged(of_others, without(works, of_others));
    }
  }
  take_off_waits(engines, waits);
  const Segments segments = with_others(of_main, of_others);
  times.whole = times_within(segments, 0, end);
  for (Step& step : tables.steps) {
    const auto of_step = times_within(segments, step.start, step.end == kNever ? end : step.end);
    const auto time = [&](Phase phase) { return of_step[static_cast<size_t>(phase)]; };
    step.forward = time(Phase::kForward);
    step.recompute = time(Phase::kRecomputation);
    step.backward = time(Phase::kBackward);
    step.optimizer = time(Phase::kOptimizer);
    step.data = time(Phase::kData);
  }
  return times;
}

}  // namespace torchprof
