"""Ops that move no bytes: views, and ops that only allocate. By name, for traces that do not have what ops return."""

from __future__ import annotations

from typing import Final

from torchprof.flops.classes import AROUND_OPS

__all__ = ["moves_nothing"]

VIEWS: Final = frozenset(
    """
    adjoint alias as_strided broadcast_tensors broadcast_to chunk conj detach detach_ diagonal expand expand_as flatten H
    hsplit imag is_nonzero lift_fresh mH mT matrix_H movedim moveaxis narrow numpy_T permute positive pin_memory real
    record_stream requires_grad_ resolve_conj resolve_neg result_type select set_ set_data size slice split split_with_sizes
    squeeze squeeze_ stride swapaxes swapdims t t_ tensor_split transpose transpose_ T unbind unflatten unfold unsqueeze
    to contiguous reshape reshape_as type_as
    unsqueeze_ view view_as view_as_complex view_as_real vsplit
    _conj _neg_view _reshape_alias _unsafe_view _version _fw_primal _make_dual resize_ resize_as_ sym_size sym_stride
    can_cast promote_types is_floating_point is_complex is_signed is_same_size is_contiguous values indices crow_indices
    col_indices _indices _values _has_compatible_shallow_copy_type _local_scalar_dense
    """.split()
)
"""Names in ``aten::``."""


def moves_nothing(name: str) -> bool:
    """Whether an op, range or node of autograd with this name moves no bytes of tensors but in the ops inside it."""
    if name.startswith(AROUND_OPS) or "::" not in name:
        return True
    space, _, op = name.partition("::")
    return space == "aten" and (op in VIEWS or op.startswith(("empty", "new_empty")))
