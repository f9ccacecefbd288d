// The frames of CPython 3.13.
#pragma once

#include <Python.h>

namespace torchprof::python {

struct InterpreterFrame {
  PyObject* executable;  // a code object, or None where C called Python
  InterpreterFrame* previous;
  PyObject* function;
  PyObject* globals;
  PyObject* builtins;
  PyObject* locals;
  PyObject* object;
  const char* instruction;  // the one that runs
};

inline const InterpreterFrame* innermost_frame(const PyThreadState* thread) {
  return reinterpret_cast<const InterpreterFrame*>(thread->current_frame);
}
inline PyObject* executable_of(const InterpreterFrame& frame) { return frame.executable; }

}  // namespace torchprof::python
