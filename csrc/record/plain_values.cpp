#include "record/plain_values.h"

#include <algorithm>
#include <array>

#include "record/attributes.h"

namespace torchprof {
namespace {

// dtypes, devices, symbolic numbers.
bool is_value_of_torch(const PyTypeObject* type) {
  static const std::array<PyTypeObject*, 8> values{loaded_class("torch", "dtype"),    loaded_class("torch", "device"),
                                                   loaded_class("torch", "layout"),   loaded_class("torch", "memory_format"),
                                                   loaded_class("torch", "qscheme"),  loaded_class("torch", "SymInt"),
                                                   loaded_class("torch", "SymFloat"), loaded_class("torch", "SymBool")};
  return std::find(values.begin(), values.end(), type) != values.end();
}

}  // namespace

bool is_plain_value(PyObject* object) {
  PyTypeObject* const type = Py_TYPE(object);
  return is_none_int_or_text(object) || PyFloat_Check(object) || PyComplex_Check(object) || PyByteArray_Check(object) ||
         type == &PyRange_Type || type == &PySlice_Type || type == &PyEllipsis_Type || object == Py_NotImplemented ||
         is_value_of_torch(type);
}

}  // namespace torchprof
