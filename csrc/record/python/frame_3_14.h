// The frames of CPython 3.14.
#pragma once

#include <Python.h>

#include <cstdint>

namespace torchprof::python {

struct InterpreterFrame {
  uintptr_t executable;  // a code object, or None where C called Python; its lowest bits say who counts the reference
  InterpreterFrame* previous;
  uintptr_t function;
  PyObject* globals;
  PyObject* builtins;
  PyObject* locals;
  PyObject* object;
  const char* instruction;  // the one that runs
};

inline const InterpreterFrame* innermost_frame(const PyThreadState* thread) {
  return reinterpret_cast<const InterpreterFrame*>(thread->current_frame);
}
inline PyObject* executable_of(const InterpreterFrame& frame) {
  return reinterpret_cast<PyObject*>(frame.executable & ~uintptr_t{3});
}

}  // namespace torchprof::python
