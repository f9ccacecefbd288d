// Threads that come and go write to the logs of recordings, which begin, add up their steps on another thread, and end meanwhile. It is a
// program of its own, without Python and PyTorch, so that ThreadSanitizer sees every access and every lock.
//
//   threads SECONDS       says what is wrong, and exits with 1
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "record/thread_slot.h"
#include "session/step_sums.h"
#include "trace/clock.h"

using namespace torchprof;

namespace {

constexpr int kWorkers = 4;
constexpr int kSteps = 6;  // of a recording
constexpr int kOps = 150;  // of a thread's life
constexpr int64_t kBudget = 1 << 28;

std::atomic<bool> over{false};
std::atomic<uint64_t> written{0};  // ops that a log took

bool describe(const FrameRead& frame, Place& place) {
  place = {"function", "file.py", 1, static_cast<int32_t>(reinterpret_cast<uintptr_t>(frame.executable))};
  return true;
}

// What observers do for one op, in a module and with a stack.
void record_op(uint64_t number) {
  const char key = 0;
  {
    const LogWriter writer(Event::kOp);
    ThreadLog* const log = writer.log();
    if (log == nullptr) {
      return;
    }
    if (Op* const op = log->open_op(&key, number % 3 == 0 ? "aten::add" : "range")) {
      op->start = ticks();
      op->sequence_nr = -1;
      op->forward_thread = 0;
      op->scope = number % 3 == 0 ? 0 : kUserScope;
      written.fetch_add(1, std::memory_order_relaxed);
    }
    if (log->tree != nullptr) {
      log->tree->frames = {{reinterpret_cast<const char*>(number % 50 + 1), reinterpret_cast<void*>(number % 50 + 1)}};
      log->place_op({}, log->tree->node(false, 1, describe, log->tree_rows, log->strings));
    }
    log->memory_event(ticks(), 16 + number % 100 * 16, 16, 0, -1);
  }
  const LogWriter writer;  // the recording may have ended meanwhile, or gone on to its next step
  if (ThreadLog* const log = writer.log()) {
    if (Op* const op = log->close_op(&key).op) {
      op->end = ticks();
    }
  }
}

void live() {
  for (uint64_t number = 0; number < kOps; ++number) {
    record_op(number);
  }
}

// Starts one thread after another.
void work() {
  while (!over) {
    std::thread(live).join();
  }
}

// How many ops are in the sums of a recording, or were lost.
uint64_t record_steps(bool stacks) {
  const OpClasses classes;
  const std::vector<Held> held;
  const ClockReading begin = ClockReading::now();
  Moments moments;
  ThreadLogs logs(kBudget, std::make_shared<const OpClasses>(), stacks);
  StepSums sums(kBudget, Carried{{}, {}, {}, {}});
  const auto ended = [&](EndedLogs of_step) {
    return EndedStep{std::move(of_step.logs),
                     std::move(of_step.trees),
                     logs.take_losses(),
                     {},
                     std::exchange(moments, {}),
                     held,
                     classes,
                     true,
                     TickConverter(begin, ClockReading::now()),
                     ticks(),
                     0,
                     true,
                     stacks};
  };
  logs.open();
  for (int32_t number = 0; number < kSteps; ++number) {
    Step step{};
    step.start = ticks();
    step.number = number;
    live();
    step.end = ticks();
    moments.steps.push_back(step);
    sums.add(ended(logs.exchange()));
    if (sums.is_merge_due() || sums.bytes() > kBudget) {
      std::puts("the sums of a few names are large");
      std::exit(1);
    }
  }
  logs.close();
  uint64_t after = 0;  // the last step
  for (const auto& log : logs.logs()) {
    after += log->ops.size();
  }
  const Tables tables = sums.sums().totals.copy(sums.sums().carried.stacks);
  uint64_t count = after;
  for (const OpTotal& total : tables.op_totals) {
    count += static_cast<uint64_t>(total.count);
  }
  return count + sums.sums().losses.ops;
}

}  // namespace

int main(int, char** arguments) {
  const double seconds = std::atof(arguments[1]);
  std::vector<std::thread> workers;
  for (int i = 0; i < kWorkers; ++i) {
    workers.emplace_back(work);
  }
  uint64_t counted = 0;
  int recordings = 0;
  const int64_t end = steady_ns() + static_cast<int64_t>(seconds * 1e9);
  for (; steady_ns() < end; ++recordings) {
    counted += record_steps(recordings % 2 == 0);
  }
  over = true;
  for (std::thread& worker : workers) {
    worker.join();
  }
  std::printf("%d recordings, %llu ops\n", recordings, static_cast<unsigned long long>(counted));
  if (counted != written) {
    std::printf("%llu were written\n", static_cast<unsigned long long>(written.load()));
    return 1;
  }
  return 0;
}
