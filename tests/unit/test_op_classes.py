"""Every op of PyTorch is counted, free of FLOPs, or known to be unknown."""

from __future__ import annotations

from typing import Final

import torch
from torch.utils.flop_counter import flop_registry

from torchprof import _native
from torchprof.flops.classes import classes_by_name, is_pytorchs
from torchprof.flops.formulas import FORMULAS
from torchprof.record.flops.op_classes import op_classes, op_classes_of

UNKNOWN: Final = frozenset(
    """
    aten::_linalg_eigh aten::_linalg_eigvals aten::_linalg_svd aten::linalg_eig aten::linalg_lstsq aten::linalg_pinv
    aten::linalg_matrix_exp aten::linalg_ldl_factor_ex aten::linalg_ldl_solve

    aten::_cslt_sparse_mm aten::_sparse_addmm aten::_sparse_mm_reduce_impl aten::_sparse_mm_reduce_impl_backward
    aten::_sparse_semi_structured_apply aten::_sparse_semi_structured_apply_dense aten::_sparse_sparse_matmul aten::_spsolve
    aten::hspmm aten::sparse_sampled_addmm aten::sspaddmm

    aten::_euclidean_dist aten::_native_multi_head_attention aten::_transformer_encoder_layer_fwd aten::_trilinear
    aten::_triton_multi_head_attention aten::_weight_int4pack_mm_with_scales_and_zeros aten::mkldnn_linear_backward
    aten::mps_convolution_transpose_backward symm_mem::_async_input_mm _native::_foreach_mm_native_0
    symm_mem::fused_all_gather_matmul symm_mem::fused_all_gather_scaled_matmul symm_mem::fused_matmul_reduce_scatter
    symm_mem::fused_scaled_matmul_reduce_scatter

    _quantized::conv2d _quantized::conv2d_relu _quantized::conv3d _quantized::conv3d_relu _quantized::conv_transpose1d
    _quantized::conv_transpose2d mkldnn_prepacked::conv2d_run onednn::qconv1d_pointwise onednn::qconv2d_pointwise
    onednn::qconv3d_pointwise onednn::qconv_pointwise quantized::conv1d quantized::conv1d_dynamic quantized::conv1d_relu
    quantized::conv2d quantized::conv2d_add quantized::conv2d_add_relu quantized::conv2d_dynamic quantized::conv2d_relu
    quantized::conv3d quantized::conv3d_dynamic quantized::conv3d_relu quantized::conv_transpose1d
    quantized::conv_transpose1d_dynamic quantized::conv_transpose2d quantized::conv_transpose2d_dynamic
    quantized::conv_transpose3d quantized::conv_transpose3d_dynamic

    prims::fft_c2c prims::fft_c2r prims::fft_r2c prims::svd

    aten::_foobar aten::_test_autograd_multiple_dispatch aten::_test_functorch_fallback aten::_test_optional_filled_intlist
    aten::_test_optional_floatlist aten::_test_optional_intlist aten::_test_parallel_materialize aten::_test_warn_in_autograd
    """.split()
)
"""Reviewed: iterative or sparse arithmetic; what is made of other ops, which count; packed filters; tests of PyTorch's own."""

TESTED_WITH: Final = "2.13"


def test_every_op_of_pytorch_is_counted_or_free_or_reviewed() -> None:
    names, _ = _native.op_names([])
    classes = op_classes_of(names)
    unknown = {name for name in names if is_pytorchs(name)} - classes.counted - classes.free - FORMULAS.keys()
    if torch.__version__.startswith(TESTED_WITH):
        assert unknown <= UNKNOWN
    else:  # another PyTorch has other ops; what is new there is unknown
        assert len(unknown - UNKNOWN) < 60


def test_no_op_is_both_counted_and_free() -> None:
    classes = op_classes()
    assert not classes.counted & classes.free


def test_every_op_that_flop_counter_mode_counts_is_counted() -> None:
    theirs = {str(packet).replace(".", "::", 1) for packet in flop_registry if isinstance(packet, torch._ops.OpOverloadPacket)}
    assert len(theirs) > 15
    assert theirs <= op_classes().counted


def test_every_formula_is_of_an_op_that_exists() -> None:
    names, _ = _native.op_names([])
    registered_when_imported = {name for name in FORMULAS if name.startswith("torch_attn::")}
    if torch.__version__.startswith(TESTED_WITH):
        assert FORMULAS.keys() - names == registered_when_imported


def test_composites_are_free_for_what_they_call_counts() -> None:
    assert {"aten::linear", "aten::matmul", "aten::einsum", "aten::conv2d", "aten::lstm", "aten::outer"} <= op_classes().free


def test_arguments_are_kept_only_where_a_formula_needs_them() -> None:
    classes = op_classes()
    assert {"aten::convolution", "aten::_cudnn_rnn", "aten::_fft_c2c"} <= classes.with_arguments
    assert not {"aten::mm", "aten::_scaled_dot_product_flash_attention_for_cpu"} & classes.with_arguments


def test_without_pytorch_ops_are_classed_by_their_names() -> None:
    """As PyTorch says, except that ops which only call others may be unknown: what they call is then counted."""
    names = {name for name in _native.op_names([])[0] if is_pytorchs(name)}
    classes, by_name = op_classes(), classes_by_name(names, {})
    assert by_name.counted == {name for name in classes.counted if name in FORMULAS}
    for_tests = {name for name in names if name.startswith(("aten::_test", "aten::_foobar"))}
    assert names - classes.free - classes.counted - for_tests <= names - by_name.free
    assert len(classes.free & by_name.free) > 0.9 * len(classes.free & names)
    for name in "relu_ silu_ sin softmax embedding native_layer_norm view rsqrt resolve_conj selu_ linalg_vector_norm".split():
        assert f"aten::{name}" in by_name.free
