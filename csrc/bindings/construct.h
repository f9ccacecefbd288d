// How Python makes an object: as py::init, but it is complete before pybind11's dispatcher goes on, which catches nothing from there. The
// process would end where there is no memory for what pybind11 notes of an object; this way, it is a MemoryError.
//
//   py::class_<Block>(module, "Block").def("__init__", &construct_default<Block>, kMakes)
#pragma once

#include <pybind11/pybind11.h>

#include <memory>

namespace torchprof::bindings {

using Instance = pybind11::detail::value_and_holder;
inline constexpr pybind11::detail::is_new_style_constructor kMakes{};

template <typename Class>
void construct(Instance& instance, std::unique_ptr<Class> made) {
  instance.value_ptr() = made.get();
  try {
    instance.type->init_instance(instance.inst, nullptr);
  } catch (...) {
    instance.value_ptr() = nullptr;  // it is not the instance that destroys it
    throw;
  }
  made.release();
}

// Of a class that is made without arguments.
template <typename Class>
void construct_default(Instance& instance) {
  construct(instance, std::make_unique<Class>());
}

}  // namespace torchprof::bindings
