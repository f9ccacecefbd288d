// The stack of Python in which ops and module calls begin and blocks are allocated.
//
//   main.py:9 ─► train.py:31 ─► model.py:5        where is this thread? at the innermost frame and its instruction
//                               └ aten::linear      another position than that of the op around it: the stack is read
//                                   └ aten::addmm   the same: it has the same stack
//
// Nothing is kept of Python: what a frame is, is read when it is first met, while it runs. Where the frames of this Python are not
// known, it is asked for the stack of every op outside of others and of every module call, which takes the GIL.
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "record/python/frame.h"
#include "trace/thread_log.h"

namespace torchprof {

enum class StacksRead : uint8_t { kNot, kFromFrames, kByApi };

namespace detail {
inline std::atomic<bool> asks_python{false};
}

// Of the frames around these, none is recorded, which is said in their place.
inline constexpr size_t kMostFrames = 1024;

// While one exists, code objects that end are noticed. It is made and ended with the GIL.
class StackObserver {
 public:
  explicit StackObserver(StacksRead how);
  ~StackObserver();
  StackObserver(const StackObserver&) = delete;
  StackObserver& operator=(const StackObserver&) = delete;
  static bool exists();
};

// Whether frames are what they are taken for here: the frames of this thread are compared with what Python says of them. Called with
// the GIL.
bool can_read_frames();

// What Python says of the stack of this thread, where frames are not read; null where it is not asked. That takes the GIL, so it comes
// before a LogWriter, for which another thread may wait that has the GIL.
class AskedStack {
 public:
  struct Frames {
    std::vector<FrameRead> frames;
    bool is_cut = false;
  };

  static AskedStack of_op() { return detail::asks_python.load(std::memory_order_relaxed) ? of_outermost_op() : AskedStack(); }
  static AskedStack of_call() { return detail::asks_python.load(std::memory_order_relaxed) ? asked() : AskedStack(); }
  const Frames* get() const { return frames_.get(); }
  bool is_lost() const { return is_lost_; }  // there was no memory for it

 private:
  static AskedStack of_outermost_op();
  static AskedStack asked();
  static std::unique_ptr<Frames> ask();

  std::unique_ptr<Frames> frames_;
  bool is_lost_ = false;
};

// Reads the stack of this thread, or takes the one that was asked for: a row of the tree of the log, or kNoRow. One that does not fit is
// counted.
int32_t read_stack(ThreadLog& log, const python::InterpreterFrame* innermost) noexcept;
int32_t take_stack(ThreadLog& log, const AskedStack& asked) noexcept;

// The innermost frame of this thread; nullptr on threads that do not run Python.
const python::InterpreterFrame* look_up_innermost_frame(ThreadLog& log);
inline const python::InterpreterFrame* innermost_frame(ThreadLog& log) {
  const void* const thread = log.tree->lasting_thread;
  return thread != nullptr ? python::innermost_frame(static_cast<const PyThreadState*>(thread)) : look_up_innermost_frame(log);
}

inline Position position_of(const python::InterpreterFrame* frame) {
  return frame != nullptr ? Position{frame, frame->instruction} : Position{};
}

// The op that was opened last begins now. Comes after identify().
inline void note_stack_of_op(ThreadLog& log, const AskedStack& asked) noexcept {
  if (log.tree == nullptr) {
    return;
  }
  const bool reads = !detail::asks_python.load(std::memory_order_relaxed);
  const python::InterpreterFrame* const frame = reads ? innermost_frame(log) : nullptr;
  const Position now = position_of(frame);
  const ThreadLog::OpenOp* const around = log.op_with_stack_of(now, 1);
  log.place_op(now, around != nullptr ? around->stack : reads ? read_stack(log, frame) : take_stack(log, asked));
}

inline int32_t stack_of_call(ThreadLog& log, const AskedStack& asked) noexcept {
  if (log.tree == nullptr) {
    return kNoRow;
  }
  return detail::asks_python.load(std::memory_order_relaxed) ? take_stack(log, asked) : read_stack(log, innermost_frame(log));
}

// Python is not asked for it: what allocates may hold a lock that another thread with the GIL waits for.
inline uint32_t stack_of_memory(ThreadLog& log) noexcept {
  if (log.tree == nullptr) {
    return kStackOfOp;
  }
  const bool reads = !detail::asks_python.load(std::memory_order_relaxed);
  const python::InterpreterFrame* const frame = reads ? innermost_frame(log) : nullptr;
  if (log.op_with_stack_of(position_of(frame), 0) != nullptr) {
    return kStackOfOp;
  }
  return log.stack_of_memory(reads ? read_stack(log, frame) : kNoRow);
}

}  // namespace torchprof
