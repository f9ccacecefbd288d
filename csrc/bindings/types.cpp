// What the numbers of dtypes and device types mean to the PyTorch that runs. Traces store the numbers, and keep these names beside
// them: a newer PyTorch has types that a list written here would not have.
#include <c10/core/DeviceType.h>
#include <c10/core/ScalarType.h>
#include <pybind11/stl.h>
#include <torch/csrc/Dtype.h>
#include <torch/csrc/DynamicTypes.h>

#include <cstdint>
#include <exception>
#include <map>
#include <string>
#include <utility>

#include "bindings/bindings.h"

namespace torchprof::bindings {
namespace {

// The name and the bytes of an element, by number. A type without a torch.dtype in Python is left out.
std::map<int, std::pair<std::string, int64_t>> dtypes() {
  std::map<int, std::pair<std::string, int64_t>> found;
  for (int number = 0; number < static_cast<int>(c10::ScalarType::NumOptions); ++number) {
    const auto type = static_cast<c10::ScalarType>(number);
    try {
      found.emplace(number, std::pair(torch::getTHPDtype(type)->name, static_cast<int64_t>(c10::elementSize(type))));
    } catch (const std::exception&) {
      continue;
    }
  }
  return found;
}

// The names, by number. The name of "privateuseone" is the one that its backend was registered with.
std::map<int, std::string> device_types() {
  std::map<int, std::string> found;
  for (int number = 0; number < c10::COMPILE_TIME_MAX_DEVICE_TYPES; ++number) {
    try {
      found.emplace(number, c10::DeviceTypeName(static_cast<c10::DeviceType>(number), /*lower_case=*/true));
    } catch (const std::exception&) {
      continue;
    }
  }
  return found;
}

}  // namespace

void define_types(pybind11::module_& module) {
  module.def("dtypes", &dtypes);
  module.def("device_types", &device_types);
}

}  // namespace torchprof::bindings
