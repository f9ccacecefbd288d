// Values of Python and of PyTorch that hold no tensor, whatever their contents.
#pragma once

#include <Python.h>

namespace torchprof {

// The most usual of them, told by flags: no class of tensors can be derived from these.
inline bool is_none_int_or_text(PyObject* object) {
  constexpr unsigned long kPlain =
      Py_TPFLAGS_LONG_SUBCLASS | Py_TPFLAGS_UNICODE_SUBCLASS | Py_TPFLAGS_BYTES_SUBCLASS | Py_TPFLAGS_TYPE_SUBCLASS;
  return object == Py_None || (Py_TYPE(object)->tp_flags & kPlain) != 0;
}

bool is_plain_value(PyObject* object);

}  // namespace torchprof
