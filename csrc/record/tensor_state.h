// What one tensor looks like, without its elements: shape, storage, dtype, gradient, autograd. See memory_guard.h for the elements.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/csrc/autograd/variable.h>

#include <cstdint>
#include <optional>

namespace torchprof {

class TensorState {
 public:
  explicit TensorState(at::TensorImpl& tensor);

  at::TensorImpl* tensor() const { return tensor_; }
  const at::Tensor& gradient() const { return gradient_; }

  bool version_moved() const;
  bool has_other_storage() const;
  // Autograd does not see any of it. The version counter goes back only where the elements are those of before: a graph that saved the
  // tensor is valid then, and must not be otherwise.
  void restore(bool with_version);

 private:
  bool looks_different() const;
  void restore_autograd();

  at::TensorImpl* tensor_;                    // alive as long as the Python object is, which the owner of this holds
  c10::intrusive_ptr<at::TensorImpl> alias_;  // on the same storage. Null for tensors that cannot be copied in this way
  std::optional<uint32_t> version_;
  at::Tensor gradient_;
  decltype(torch::autograd::AutogradMeta::grad_fn_) grad_fn_;  // of another kind in older PyTorches
  uint32_t output_nr_ = 0;
  uint32_t attr_version_ = 0;
  bool requires_grad_ = false;
  bool retains_grad_ = false;
};

}  // namespace torchprof
