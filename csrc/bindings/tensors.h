#pragma once

#include <ATen/core/Tensor.h>
#include <pybind11/pybind11.h>

namespace torchprof::bindings {

// Throws TypeError if the object is not a tensor. Calls no code of a subclass.
const at::Tensor& unpack(const pybind11::object& object);

}  // namespace torchprof::bindings
