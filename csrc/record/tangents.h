// Forward-mode AD: whether tensors have tangents, and whether an op computes with them. The autograd kernel of an op runs first the op
// itself, with autograd excluded, and then the ops that compute the tangents of its result.
#pragma once

#include <ATen/core/ivalue.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/csrc/autograd/variable.h>

#include "record/tensor_reader.h"

namespace torchprof {

inline bool has_tangent(const c10::TensorImpl& tensor) {
  const auto* const meta = static_cast<const torch::autograd::AutogradMeta*>(tensor.autograd_meta());
  return meta != nullptr && meta->fw_grad_ != nullptr && !meta->fw_grad_->empty();
}

// Whether any tensor among boxed values has one.
template <typename IValues>
bool have_tangents(const IValues& values) {
  return any_tensor(values, has_tangent);
}

inline bool is_below_autograd() {
  return c10::impl::tls_local_dispatch_key_set().excluded_.has(c10::DispatchKey::AutogradFunctionality);
}

}  // namespace torchprof
