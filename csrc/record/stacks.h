// The stack of Python in which ops and module calls begin and blocks are allocated.
//
//   main.py:9 ─► train.py:31 ─► model.py:5        where is this thread? at the innermost frame and its instruction
//                               └ aten::linear      another position than that of the op around it: the stack is read
//                                   └ aten::addmm   the same: it has the same stack
//
// Nothing is kept of Python: what a frame is, is read when it is first met, while it runs.
#pragma once

#include "record/python/frame.h"
#include "trace/thread_log.h"

namespace torchprof {

// While one exists, code objects that end are noticed. It is made and ended with the GIL.
class CodeObserver {
 public:
  CodeObserver();
  ~CodeObserver();
  CodeObserver(const CodeObserver&) = delete;
  CodeObserver& operator=(const CodeObserver&) = delete;
  static bool exists();
};

// Whether frames are what they are taken for here: the frames of this thread are compared with what Python says of them. Called with
// the GIL.
bool can_read_frames();

// Reads the stack of this thread: a row of the tree of the log, or kNoRow.
int32_t read_stack(ThreadLog& log, const python::InterpreterFrame* innermost);

inline Position position_of(const python::InterpreterFrame* frame) {
  return frame != nullptr ? Position{frame, frame->instruction} : Position{};
}

// The op that was opened last begins now. Comes after identify().
inline void note_stack_of_op(ThreadLog& log) {
  if (log.tree == nullptr) {
    return;
  }
  const python::InterpreterFrame* const frame = python::innermost_frame();
  const Position now = position_of(frame);
  const ThreadLog::OpenOp* const around = log.op_with_stack_of(now, 1);
  log.place_op(now, around != nullptr ? around->stack : read_stack(log, frame));
}

inline int32_t stack_of_call(ThreadLog& log) {
  return log.tree != nullptr ? read_stack(log, python::innermost_frame()) : kNoRow;
}

inline uint32_t stack_of_memory(ThreadLog& log) {
  if (log.tree == nullptr) {
    return kStackOfOp;
  }
  const python::InterpreterFrame* const frame = python::innermost_frame();
  const ThreadLog::OpenOp* const around = log.op_with_stack_of(position_of(frame), 0);
  return around != nullptr ? kStackOfOp : log.stack_of_memory(read_stack(log, frame));
}

}  // namespace torchprof
