#include "record/tensor_state.h"

#include <c10/core/impl/LocalDispatchKeySet.h>

namespace torchprof {
namespace {

using torch::autograd::AutogradMeta;
using torch::autograd::DifferentiableViewMeta;

// What tensors of these consist of is in classes of their own.
constexpr c10::DispatchKeySet kOtherLayouts({c10::DispatchKey::Sparse, c10::DispatchKey::SparseCsr, c10::DispatchKey::MkldnnCPU,
                                             c10::DispatchKey::NestedTensor});

AutogradMeta* autograd_of(const at::TensorImpl& tensor) { return static_cast<AutogradMeta*>(tensor.autograd_meta()); }

DifferentiableViewMeta* view_of(AutogradMeta* meta) {
  if (meta == nullptr || !meta->is_view_) {
    return nullptr;
  }
  auto* const view = static_cast<DifferentiableViewMeta*>(meta);
  return view->has_bw_view() ? view : nullptr;
}

}  // namespace

TensorState::TensorState(at::TensorImpl& tensor) : tensor_(&tensor) {
  try {
    // A subclass or a mode would be asked for its own copy.
    const c10::impl::ExcludeDispatchKeyGuard plain(c10::python_ks | c10::DispatchKeySet(c10::DispatchKey::PythonTLSSnapshot));
    alias_ = tensor.shallow_copy_and_detach(c10::VariableVersion(c10::VariableVersion::DISABLED), true);
  } catch (const std::exception&) {
  }
  if (tensor.version_counter().enabled()) {
    version_ = tensor.version_counter().current_version();
  }
  if (AutogradMeta* const meta = autograd_of(tensor)) {
    gradient_ = meta->grad_;
    grad_fn_ = meta->grad_fn_;
    output_nr_ = meta->output_nr_;
    requires_grad_ = meta->requires_grad_;
    retains_grad_ = meta->retains_grad_;
    if (DifferentiableViewMeta* const view = view_of(meta)) {
      attr_version_ = view->get_attr_version();
    }
  }
}

bool TensorState::version_moved() const {
  return version_ && tensor_->version_counter().enabled() && tensor_->version_counter().current_version() != *version_;
}

bool TensorState::has_other_storage() const {
  return alias_ != nullptr &&
         tensor_->unsafe_storage().unsafeGetStorageImpl() != alias_->unsafe_storage().unsafeGetStorageImpl();
}

bool TensorState::looks_different() const {
  if (has_other_storage() || tensor_->dtype() != alias_->dtype() || tensor_->key_set().has_any(kOtherLayouts)) {
    return true;
  }
  if (tensor_->has_symbolic_sizes_strides() || alias_->has_symbolic_sizes_strides()) {
    return tensor_->has_symbolic_sizes_strides() != alias_->has_symbolic_sizes_strides();
  }
  return tensor_->sizes_default() != alias_->sizes_default() || tensor_->strides_default() != alias_->strides_default() ||
         tensor_->storage_offset_default() != alias_->storage_offset_default() || tensor_->is_conj() != alias_->is_conj() ||
         tensor_->is_neg() != alias_->is_neg();
}

void TensorState::restore(bool with_version) {
  if (alias_ != nullptr && looks_different()) {
    const bool other_kind = tensor_->dtype() != alias_->dtype();
    tensor_->shallow_copy_from(alias_);
    if (AutogradMeta* const meta = autograd_of(*tensor_); meta != nullptr && other_kind) {
      meta->grad_accumulator_.reset();  // it expects gradients of the other dtype
    }
  }
  restore_autograd();
  if (with_version && version_moved()) {
    c10::VariableVersion counter = tensor_->version_counter();
    counter.set_version(*version_);
  }
}

void TensorState::restore_autograd() {
  AutogradMeta* const meta = autograd_of(*tensor_);
  if (meta == nullptr) {
    if (requires_grad_) {
      tensor_->set_requires_grad(true);
    }
    return;
  }
  meta->grad_ = gradient_;
  meta->grad_fn_ = grad_fn_;
  meta->output_nr_ = output_nr_;
  meta->requires_grad_ = requires_grad_;
  meta->retains_grad_ = retains_grad_;
  if (DifferentiableViewMeta* const view = view_of(meta)) {
    view->set_attr_version(attr_version_);
  }
}

}  // namespace torchprof
