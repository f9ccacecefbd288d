// The frames of this CPython. They are read by the thread that runs them, while it is in C: without the GIL and without counting
// references, as they stand still and hold what they refer to. PyEval_GetFrame() is null there, as PyTorch releases the GIL before it
// dispatches. A version whose frames are not known here is asked instead: see AskedStack.
//
//   thread state ─► innermost ─ previous ─► its caller ─ previous ─► ... ─► null
//
// Some are not those of a running function, and none_of() says so: of a function that has not begun, or those that stand where C
// called Python.
#pragma once

#include <Python.h>

#if defined(Py_GIL_DISABLED)
#elif PY_VERSION_HEX >= 0x030E0000 && PY_VERSION_HEX < 0x030F0000
#define TORCHPROF_KNOWS_FRAMES
#include "record/python/frame_3_14.h"
#elif PY_VERSION_HEX >= 0x030D0000 && PY_VERSION_HEX < 0x030E0000
#define TORCHPROF_KNOWS_FRAMES
#include "record/python/frame_3_13.h"
#elif PY_VERSION_HEX >= 0x030C0000 && PY_VERSION_HEX < 0x030D0000
#define TORCHPROF_KNOWS_FRAMES
#include "record/python/frame_3_12.h"
#elif PY_VERSION_HEX >= 0x030B0000 && PY_VERSION_HEX < 0x030C0000
#define TORCHPROF_KNOWS_FRAMES
#include "record/python/frame_3_11.h"
#endif

namespace torchprof::python {

#ifdef TORCHPROF_KNOWS_FRAMES
inline constexpr bool kKnowsFrames = true;
#else
inline constexpr bool kKnowsFrames = false;

struct InterpreterFrame {
  InterpreterFrame* previous;
  const char* instruction;
};
inline const InterpreterFrame* innermost_frame(const PyThreadState*) { return nullptr; }
inline PyObject* executable_of(const InterpreterFrame&) { return nullptr; }
#endif

// The innermost frame of this thread; nullptr on threads that do not run Python.
inline const InterpreterFrame* innermost_frame() {
  const PyThreadState* const thread = PyGILState_GetThisThreadState();
  return thread != nullptr ? innermost_frame(thread) : nullptr;
}

}  // namespace torchprof::python
