#include "record/stacks.h"

#include <atomic>
#include <vector>

#include "record/python/code_object.h"

namespace torchprof {
namespace {

using python::InterpreterFrame;

// Of the frames around these, none is recorded, which is said in their place.
constexpr size_t kMostFrames = 1024;

// How many code objects have ended. A thread that runs a new one where an old one was has had the GIL since then, so it sees that.
std::atomic<uint64_t> ended_codes{1};

destructor original_dealloc = nullptr;
bool is_called = false;  // observed_dealloc, by the type or by what somebody else has put in its place

void observed_dealloc(PyObject* code) {
  ended_codes.fetch_add(1, std::memory_order_relaxed);
  original_dealloc(code);
}

bool describe(const FrameRead& frame, Place& place) {
  auto* const executable = static_cast<PyObject*>(frame.executable);
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

}  // namespace

CodeObserver::CodeObserver() {
  if (!is_called) {
    original_dealloc = PyCode_Type.tp_dealloc;
    PyCode_Type.tp_dealloc = observed_dealloc;
    is_called = true;
  }
}

CodeObserver::~CodeObserver() {
  if (PyCode_Type.tp_dealloc == observed_dealloc) {
    PyCode_Type.tp_dealloc = original_dealloc;
    is_called = false;
  }
}

bool CodeObserver::exists() { return PyCode_Type.tp_dealloc == observed_dealloc; }

int32_t read_stack(ThreadLog& log, const InterpreterFrame* innermost) {
  std::vector<FrameRead>& frames = log.tree->frames;
  frames.clear();
  const InterpreterFrame* frame = innermost;
  for (; frame != nullptr && frames.size() < kMostFrames; frame = frame->previous) {
    frames.push_back({frame->instruction, python::executable_of(*frame)});
  }
  const int32_t stack =
      log.tree->node(frame != nullptr, ended_codes.load(std::memory_order_relaxed), &describe, log.tree_rows, log.strings);
  log.stacks_lost += log.tree->is_full() ? 1 : 0;
  return stack;
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
