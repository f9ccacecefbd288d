#include "bindings/bindings.h"

PYBIND11_MODULE(_C, module) {
  using namespace torchprof::bindings;
  register_rows();
  define_places(module);
  define_held(module);
  define_recording(module);
  define_block(module);
  define_graph(module);
  define_tensors(module);
  define_model(module);
  define_model_state(module);
  define_types(module);
  define_pause(module);
  define_op_classes(module);
  define_allocator(module);
}
