#include "record/stacks.h"
#include "record/thread_slot.h"

namespace torchprof {
namespace {

bool is_finalizing() {
#if PY_VERSION_HEX >= 0x030D0000
  return Py_IsFinalizing() != 0;
#else
  return _Py_IsFinalizing() != 0;
#endif
}

}  // namespace

AskedStack AskedStack::of_outermost_op() {
  {
    const LogWriter writer;
    if (writer.log() == nullptr || !writer.log()->is_outside_ops()) {
      return {};
    }
  }
  return asked();
}

AskedStack AskedStack::asked() {
  AskedStack stack;
  try {
    stack.frames_ = ask();
  } catch (const std::bad_alloc&) {
    stack.is_lost_ = true;
  }
  return stack;
}

// Room is made before Python is asked, as nothing may fail in between.
std::unique_ptr<AskedStack::Frames> AskedStack::ask() {
  if (PyGILState_GetThisThreadState() == nullptr || is_finalizing()) {
    return nullptr;
  }
  auto found = std::make_unique<Frames>();
  found->frames.reserve(kMostFrames);
  const PyGILState_STATE gil = PyGILState_Ensure();
  PyFrameObject* frame = PyEval_GetFrame();
  for (Py_XINCREF(frame); frame != nullptr && found->frames.size() < kMostFrames;) {
    PyCodeObject* const code = PyFrame_GetCode(frame);
    found->frames.push_back({code->co_code_adaptive + PyFrame_GetLasti(frame), code});
    Py_DECREF(code);  // the frame has it, and runs on
    Py_SETREF(frame, PyFrame_GetBack(frame));
  }
  found->is_cut = frame != nullptr;
  Py_XDECREF(frame);
  PyGILState_Release(gil);
  return found;
}

}  // namespace torchprof
