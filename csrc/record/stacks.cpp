#include "record/stacks.h"

#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#else
#include <pthread.h>
#endif

#include "record/python/code_object.h"

namespace torchprof {
namespace {

using python::InterpreterFrame;

// How many code objects have ended. A thread that runs a new one where an old one was has had the GIL since then, so it sees that.
std::atomic<uint64_t> ended_codes{1};

destructor original_dealloc = nullptr;
bool is_called = false;  // observed_dealloc, by the type or by what somebody else has put in its place

void observed_dealloc(PyObject* code) {
  ended_codes.fetch_add(1, std::memory_order_relaxed);
  original_dealloc(code);
}

bool describe(PyObject* executable, const FrameRead& frame, Place& place) {
  if (!python::has_begun(executable, frame.instruction)) {
    return false;
  }
  const auto& code = *reinterpret_cast<const PyCodeObject*>(executable);
  place.function = python::text_of(code.co_qualname);
  place.file = python::text_of(code.co_filename);
  place.first_line = code.co_firstlineno;
  place.line = python::line_of(code, frame.instruction);
  return true;
}

// Where Python was asked, the frames of a tree have their code; else they are themselves where the code would be.
bool describe_code(const FrameRead& frame, Place& place) {
  return describe(static_cast<PyObject*>(frame.executable), frame, place);
}
bool describe_frame(const FrameRead& frame, Place& place) {
  return describe(python::executable_of(*static_cast<const InterpreterFrame*>(frame.executable)), frame, place);
}

// The stack that this thread has read last, whose frames are those of the tree.
struct Latest {
  const CallTree* tree = nullptr;
  uint64_t epoch = 0;
  int32_t node = kNoRow;
};
#if defined(__linux__)
[[gnu::tls_model("initial-exec")]]
#endif
thread_local constinit Latest latest;

// That of the thread that Python began with, which lasts as long as the process: the oldest one.
std::atomic<const PyThreadState*> oldest_state{nullptr};

const PyThreadState* find_oldest_state() {
  const PyThreadState* oldest = nullptr;
  for (PyThreadState* state = PyInterpreterState_ThreadHead(PyInterpreterState_Main()); state != nullptr;
       state = PyThreadState_Next(state)) {
    oldest = state;
  }
  return oldest;
}

// Whether the process began with this thread.
bool is_first_thread() {
#if defined(__linux__)
  return static_cast<pid_t>(syscall(SYS_gettid)) == getpid();
#else
  return pthread_main_np() != 0;
#endif
}

// Of the stack in the frames of the tree, of which so many of the outermost are those of the last time.
int32_t node_of(ThreadLog& log, bool is_cut, CallTree::Describe describe, size_t same = 0) {
  latest.tree = nullptr;  // where what follows throws
  const uint64_t epoch = ended_codes.load(std::memory_order_relaxed);
  const int32_t node = log.tree->node(is_cut, epoch, describe, log.tree_rows, log.strings, same);
  log.stacks_lost += log.tree->is_full() ? 1 : 0;
  latest = {log.tree->is_full() ? nullptr : log.tree, epoch, node};
  return node;
}

enum class Change { kNone, kInnermost, kOther };

// What has changed since these frames were read: nothing, where a loop runs; the instruction of the innermost, from line to line. The
// next frame is taken from the list once it is known to be the right one: the processor need not wait for the list of the interpreter.
Change change_of(std::vector<FrameRead>& frames, const InterpreterFrame* innermost) {
  if (innermost == nullptr || frames.empty() || frames.front().executable != innermost) {
    return Change::kOther;
  }
  const Change change = frames.front().instruction == innermost->instruction ? Change::kNone : Change::kInnermost;
  const InterpreterFrame* frame = innermost;
  for (size_t next = 1; next < frames.size(); ++next) {
    const void* const expected = frames[next].executable;
    const void* known = expected;
    asm("" : "+r"(known));  // otherwise the compiler may take the other one, which is equal
    if (frame->previous != expected) {
      return Change::kOther;
    }
    frame = static_cast<const InterpreterFrame*>(known);
    if (frame->instruction != frames[next].instruction) {
      return Change::kOther;
    }
  }
  if (frame->previous != nullptr) {
    return Change::kOther;
  }
  frames.front().instruction = innermost->instruction;
  return change;
}

}  // namespace

const InterpreterFrame* look_up_innermost_frame(ThreadLog& log) {
  CallTree& tree = *log.tree;
  if (!tree.is_thread_known) {
    tree.is_thread_known = true;
    // The state of another thread may end before it, and it gets a new one when it runs Python again. So may that of the first
    // thread of a program which Python is only a part of.
    const PyThreadState* const state = PyGILState_GetThisThreadState();
    const bool lasts = is_first_thread() && state == oldest_state.load(std::memory_order_relaxed);
    tree.lasting_thread = lasts ? state : nullptr;
  }
  return python::innermost_frame();
}

StackObserver::StackObserver(StacksRead how) {
  if (!is_called) {
    original_dealloc = PyCode_Type.tp_dealloc;
    PyCode_Type.tp_dealloc = observed_dealloc;
    is_called = true;
  }
  oldest_state.store(find_oldest_state(), std::memory_order_relaxed);
  detail::asks_python.store(how == StacksRead::kByApi, std::memory_order_relaxed);
}

StackObserver::~StackObserver() {
  detail::asks_python.store(false, std::memory_order_relaxed);
  if (PyCode_Type.tp_dealloc == observed_dealloc) {
    PyCode_Type.tp_dealloc = original_dealloc;
    is_called = false;
  }
}

bool StackObserver::exists() { return PyCode_Type.tp_dealloc == observed_dealloc; }

int32_t take_stack(ThreadLog& log, const AskedStack& asked) noexcept {
  log.stacks_lost += asked.is_lost() ? 1 : 0;
  if (asked.get() == nullptr) {
    return kNoRow;
  }
  try {
    log.tree->frames = asked.get()->frames;
    return node_of(log, asked.get()->is_cut, &describe_code);
  } catch (const std::bad_alloc&) {
    ++log.stacks_lost;
    return kNoRow;
  }
}

int32_t read_stack(ThreadLog& log, const InterpreterFrame* innermost) noexcept try {
  std::vector<FrameRead>& frames = log.tree->frames;
  if (latest.tree == log.tree && latest.epoch == ended_codes.load(std::memory_order_relaxed)) {
    const Change change = change_of(frames, innermost);
    if (change != Change::kOther) {
      return change == Change::kNone ? latest.node : node_of(log, false, &describe_frame, frames.size() - 1);
    }
  }
  latest.tree = nullptr;
  frames.clear();
  const InterpreterFrame* frame = innermost;
  for (; frame != nullptr && frames.size() < kMostFrames; frame = frame->previous) {
    frames.push_back({frame->instruction, const_cast<InterpreterFrame*>(frame)});
  }
  return node_of(log, frame != nullptr, &describe_frame);
} catch (const std::bad_alloc&) {
  ++log.stacks_lost;
  return kNoRow;
}

bool can_read_frames() {
  if (!python::kKnowsFrames) {
    return false;
  }
  const InterpreterFrame* frame = python::innermost_frame();
  const auto next_begun = [&] {
    while (frame != nullptr && !python::has_begun(python::executable_of(*frame), frame->instruction)) {
      frame = frame->previous;
    }
  };
  auto* known = reinterpret_cast<PyFrameObject*>(Py_XNewRef(PyEval_GetFrame()));
  bool is_right = known != nullptr;
  for (next_begun(); is_right && known != nullptr && frame != nullptr; next_begun()) {
    PyCodeObject* const code = PyFrame_GetCode(known);
    const Py_ssize_t offset = frame->instruction - code->co_code_adaptive;
    is_right = reinterpret_cast<PyObject*>(code) == python::executable_of(*frame) && offset == PyFrame_GetLasti(known) &&
               python::line_of(*code, frame->instruction) == PyFrame_GetLineNumber(known);
    Py_DECREF(code);
    Py_SETREF(known, PyFrame_GetBack(known));
    frame = frame->previous;
  }
  is_right = is_right && known == nullptr && frame == nullptr;
  Py_XDECREF(known);
  return is_right;
}

}  // namespace torchprof
