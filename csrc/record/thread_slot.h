// How a callback gets the log of its thread, and why no callback still writes to it when a recording has ended.
//
// Every thread that was ever recorded has a slot. A callback sets the slot's `writing` flag, then reads the current generation. The
// thread that ends a recording changes the generation, then reads the flags. One of the two must see the other's store, which takes a
// fence between store and load on both sides. A fence in the callback would cost more than the rest of it, so the ending thread does
// both: membarrier(2) runs a fence on every running thread. Where the system has no membarrier, callbacks run their own fence.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "trace/tables.h"
#include "trace/thread_log.h"

namespace torchprof {

// What a callback is there to write. Where its thread can have no log, as memory, the budget or the numbers of threads are spent, that is
// counted as lost.
enum class Event : uint8_t { kNone, kOp, kCall, kAllocation };

struct ThreadSlot {
  std::atomic<bool> writing{false};
  bool is_awaited = false;  // by who ends a recording
  uint64_t generation = 0;  // of the recording that `log` belongs to
  ThreadLog* log = nullptr;
  uint64_t tree_owner = 0;         // the number of the ThreadLogs that `tree` belongs to
  std::unique_ptr<CallTree> tree;  // where stacks are recorded; lives on from one log of this thread to the next
  std::shared_ptr<std::vector<int32_t>> ended_trees;  // of these ThreadLogs
};

namespace detail {
inline std::atomic<uint64_t> generation{0};  // of the open recording; 0: none
inline std::atomic<bool> callbacks_fence{false};
#if defined(__linux__)
[[gnu::tls_model("initial-exec")]]
#endif
inline thread_local ThreadSlot* this_slot = nullptr;
ThreadSlot* make_slot(Event event) noexcept;  // nullptr while the thread is being destroyed, or where there is no memory
void join_recording(ThreadSlot& slot, Event event) noexcept;  // gives the slot a log of the open recording, if it can have one
}  // namespace detail

// Exists while a callback writes. Nothing that can run Python or the dispatcher may be called meanwhile.
class LogWriter {
 public:
  explicit LogWriter(Event event = Event::kNone) noexcept : slot_(detail::this_slot) {
    if (slot_ == nullptr && (slot_ = detail::make_slot(event)) == nullptr) {
      return;
    }
    slot_->writing.store(true, std::memory_order_relaxed);
    std::atomic_signal_fence(std::memory_order_seq_cst);
    if (detail::callbacks_fence.load(std::memory_order_relaxed)) {
      std::atomic_thread_fence(std::memory_order_seq_cst);
    }
    generation_ = detail::generation.load(std::memory_order_acquire);
    if (generation_ == 0) {
      return;
    }
    if (slot_->generation != generation_) {
      detail::join_recording(*slot_, event);
    }
    log_ = slot_->log;
  }
  ~LogWriter() {
    if (slot_ != nullptr) {
      slot_->writing.store(false, std::memory_order_release);
    }
  }
  LogWriter(const LogWriter&) = delete;
  LogWriter& operator=(const LogWriter&) = delete;

  ThreadLog* log() const { return log_; }  // nullptr: nothing is being recorded
  uint64_t generation() const { return generation_; }

 private:
  ThreadSlot* slot_;
  ThreadLog* log_ = nullptr;
  uint64_t generation_ = 0;
};

// Logs that nobody writes to any more, and the numbers of the trees that no later log has: their threads have ended.
struct EndedLogs {
  std::vector<std::unique_ptr<ThreadLog>> logs;
  std::vector<int32_t> trees;
};

// The logs of one recording, one for each thread that wrote. At most one is open at a time.
class ThreadLogs {
 public:
  explicit ThreadLogs(int64_t budget_bytes, std::shared_ptr<const OpClasses> classes = std::make_shared<const OpClasses>(),
                      bool stacks = false);
  ~ThreadLogs();

  void open();
  void close();  // when it returns, no thread writes to these logs any more

  // Ends the logs so far and goes on with new ones, if they are open. Nothing is lost in between. A later tree may have the number of one
  // that has ended.
  EndedLogs exchange();

  // Needs the GIL, as do the calls of modules on every thread. See NewAddresses.
  void move_modules(const NewAddresses& addresses);

  // Of events on threads without a log, since the last time.
  Losses take_losses();

  std::vector<std::unique_ptr<ThreadLog>>& logs() { return logs_; }
  Budget& budget() { return budget_; }
  int64_t bytes() const { return budget_bytes_ - budget_.left(); }

 private:
  friend ThreadSlot* detail::make_slot(Event event) noexcept;
  friend void detail::join_recording(ThreadSlot& slot, Event event) noexcept;
  void add_log(ThreadSlot& slot);
  void lose(Event event) noexcept;

  const int64_t budget_bytes_;
  Budget budget_;
  const std::shared_ptr<const OpClasses> classes_;
  const uint64_t number_;  // of all that there ever were
  const bool stacks_;
  int32_t trees_ = 0;
  std::vector<int32_t> free_trees_;  // numbers that were given back
  std::shared_ptr<std::vector<int32_t>> ended_trees_ = std::make_shared<std::vector<int32_t>>();
  Losses losses_;
  std::vector<std::unique_ptr<ThreadLog>> logs_;
};

}  // namespace torchprof
