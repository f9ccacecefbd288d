#include "bindings/unread.h"

#include <torch/csrc/autograd/python_variable.h>

#include "record/attributes.h"
#include "record/storages_read.h"

namespace torchprof::bindings {
namespace {

namespace py = pybind11;

bool was_read(const AddressSet& storages_read, PyObject* tensor) {
  return THPVariable_Check(tensor) &&
         storages_read.contains(storage_identity(*THPVariable_Unpack(tensor).unsafeGetTensorImpl()));
}

}  // namespace

py::object unread_modules(const AddressSet& storages_read, const Places& places) {
  const py::str parameters_name("_parameters");
  py::list unread;
  bool any_was_read = false;
  for (size_t row = 0; row < places.rows().size(); ++row) {
    const Place& place = places.rows()[row];
    if (place.same_as >= 0) {
      continue;  // another place of an earlier module
    }
    PyObject* const own = attribute(place.module.ptr(), parameters_name.ptr());
    if (own == nullptr || !PyDict_Check(own)) {
      continue;
    }
    bool has_any = false, was_any_read = false;
    PyObject* name = nullptr;
    PyObject* tensor = nullptr;
    for (Py_ssize_t position = 0; PyDict_Next(own, &position, &name, &tensor) != 0;) {
      has_any = has_any || tensor != Py_None;
      was_any_read = was_any_read || was_read(storages_read, tensor);
    }
    any_was_read = any_was_read || was_any_read;
    if (has_any && !was_any_read) {
      unread.append(row);
    }
  }
  return any_was_read ? py::object(unread) : py::none();
}

}  // namespace torchprof::bindings
