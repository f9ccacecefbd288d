// The structs of csrc/trace/rows.h as numpy dtypes: those of torchprof/trace/schema.py, which a test compares.
#include <pybind11/numpy.h>

#include "bindings/bindings.h"
#include "trace/rows.h"

namespace torchprof::bindings {

// clang-format off
void register_rows() {
  PYBIND11_NUMPY_DTYPE(Op, start, end, sequence_nr, signature, parent, module_call, inputs, outputs, forward_thread, n_inputs,
                       n_outputs, thread, scope, flags);
  PYBIND11_NUMPY_DTYPE(Tensor, storage, storage_bytes, bytes, shape, dtype, device_type, device_index, flags);
  PYBIND11_NUMPY_DTYPE(Signature, name, inputs, outputs, arguments, results, n_inputs, n_outputs);
  PYBIND11_NUMPY_DTYPE(ModuleCall, start, end, module, parent, op, inputs, outputs, n_inputs, n_outputs, thread, flags);
  PYBIND11_NUMPY_DTYPE(Module, address, type);
  PYBIND11_NUMPY_DTYPE(Allocation, start, end, address, bytes, op, free_op, module_call, module, thread, device_type,
                       device_index, uses);
  PYBIND11_NUMPY_DTYPE(AllocatorTotal, time, allocated, reserved, unreported, device_type, device_index);
  PYBIND11_NUMPY_DTYPE(Kernel, start, end, bytes, name, runtime_call, op, module_call, stream, grid, block, registers,
                       shared_memory, graph, device_type, device_index, kind, direction, phase);
  PYBIND11_NUMPY_DTYPE(RuntimeCall, start, end, name, op, module_call, correlation, thread, kind, phase);
  PYBIND11_NUMPY_DTYPE(Step, start, end, allocated, peak, held, busy, forward, recompute, backward, optimizer, data, number,
                       kernels, warmup);
  PYBIND11_NUMPY_DTYPE(OpTotal, count, time, self_time, min, max, allocated, device_time, device_self, kernels, flops,
                       moved, merged, signature, module, phase, nested, wrapper, unknown, stack);
  PYBIND11_NUMPY_DTYPE(KernelTotal, count, time, min, max, bytes, name, op, module, device_type, device_index, kind, direction,
                       phase, in_graph);
  PYBIND11_NUMPY_DTYPE(CallTotal, count, time, self_time, min, max, module, caller, phase, stack);
  PYBIND11_NUMPY_DTYPE(Mark, time, name);
  PYBIND11_NUMPY_DTYPE(Shape, first, ndim);
  PYBIND11_NUMPY_DTYPE(Thread, torch_id, native_id);
  PYBIND11_NUMPY_DTYPE(Function, name, file, first_line);
  PYBIND11_NUMPY_DTYPE(Stack, parent, function, line);
}
// clang-format on

}  // namespace torchprof::bindings
