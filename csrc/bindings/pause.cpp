// What an estimate needs: pausing the recording while a kernel only computes what the real one would return.
#include "record/pause.h"

#include <pybind11/stl.h>
#include <torch/csrc/Storage.h>

#include <vector>

#include "bindings/bindings.h"
#include "bindings/tensors.h"
#include "record/meta_allocator.h"
#include "record/real_memory.h"

namespace torchprof::bindings {

namespace py = pybind11;
using namespace py::literals;

namespace {

// Records what the kernel returned, and a workspace of so many bytes that the real kernel allocates and frees.
void resume(const std::vector<py::object>& results, int64_t workspace) {
  resume_recording();
  for (const py::object& result : results) {
    if (c10::StorageImpl* const storage = unpack(result).unsafeGetTensorImpl()->unsafe_storage().unsafeGetStorageImpl()) {
      report_result(*storage);
    }
  }
  if (workspace > 0) {
    report_workspace(workspace);
  }
}

void take_tensor_as_earlier(const py::object& tensor) {
  if (c10::StorageImpl* const storage = unpack(tensor).unsafeGetTensorImpl()->unsafe_storage().unsafeGetStorageImpl()) {
    take_as_earlier(*storage);
  }
}

// Of a storage, which has what Storage::resize_ has.
void resize(const py::object& storage, int64_t bytes) {
  if (!THPStorage_Check(storage.ptr())) {
    throw py::type_error("storage must be an UntypedStorage");
  }
  c10::StorageImpl& impl = *THPStorage_Unpack(storage.ptr()).unsafeGetStorageImpl();
  if (!impl.device().is_meta() || bytes < 0) {
    throw py::value_error("only a storage on meta can be resized so, to a size of 0 or more");
  }
  resize_on_meta(impl, static_cast<size_t>(bytes));
}

}  // namespace

void define_pause(py::module_& module) {
  module.def("pause_recording", &pause_recording);
  module.def("resume_recording", &resume, "results"_a, "workspace"_a, py::pos_only());
  module.def("begin_compiling", &begin_compiling);
  module.def("end_compiling", &end_compiling);
  module.def("take_as_earlier", &take_tensor_as_earlier, "tensor"_a, py::pos_only());
  module.def("resize_on_meta", &resize, "storage"_a, "bytes"_a, py::pos_only());
  module.def("real_peak", &take_real_peak);
  module.def("adds_gradients", &adds_gradients);
}

}  // namespace torchprof::bindings
