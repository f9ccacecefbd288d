// The frames of CPython 3.11.
#pragma once

#include <Python.h>

namespace torchprof::python {

struct InterpreterFrame {
  PyObject* function;
  PyObject* globals;
  PyObject* builtins;
  PyObject* locals;
  PyObject* code;
  PyObject* object;
  InterpreterFrame* previous;
  const char* instruction;  // the latest one, or a part of it
};

inline const InterpreterFrame* innermost_frame(const PyThreadState* thread) {
  return reinterpret_cast<const InterpreterFrame*>(thread->cframe->current_frame);
}
inline PyObject* executable_of(const InterpreterFrame& frame) { return frame.code; }

}  // namespace torchprof::python
