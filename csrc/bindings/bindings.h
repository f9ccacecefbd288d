// The Python extension torchprof._C: the boundary, which is crossed once to start and once to stop. Only this directory includes
// pybind11. Each of these functions defines what one file has for Python; torchprof/_C.pyi declares all of it.
#pragma once

#include <pybind11/pybind11.h>

namespace torchprof::bindings {

void register_rows();
void define_recording(pybind11::module_& module);
void define_block(pybind11::module_& module);
void define_graph(pybind11::module_& module);
void define_tensors(pybind11::module_& module);
void define_places(pybind11::module_& module);
void define_held(pybind11::module_& module);
void define_model(pybind11::module_& module);
void define_model_state(pybind11::module_& module);
void define_types(pybind11::module_& module);
void define_pause(pybind11::module_& module);
void define_op_classes(pybind11::module_& module);
void define_allocator(pybind11::module_& module);

}  // namespace torchprof::bindings
