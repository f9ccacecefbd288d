// Reads code objects without the GIL: what never changes about one that is running.
#pragma once

#include <Python.h>

#include <string>

namespace torchprof::python {

// Whether a function whose latest instruction is this one has begun: until then its frame is incomplete, for CPython as well. False
// for what is no code object.
bool has_begun(PyObject* executable, const char* instruction);

// The line of an instruction; -1: it has none.
int line_of(const PyCodeObject& code, const char* instruction);

// In UTF-8. What stands for bytes of a file name that are not UTF-8 is written as in a literal: \udcff.
std::string text_of(PyObject* unicode);

}  // namespace torchprof::python
