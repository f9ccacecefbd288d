"""Ops of PyTorch that have no FLOPs by convention, where neither their tags nor their schema say so.

The convention is that of ``FlopCounterMode``: sums of products count, such as matrix products, convolutions and attention.
Elementwise arithmetic, reductions, normalization, pooling, interpolation, losses, random numbers, sorting, indexing and copies
do not. An op in place, its backward and its ``_foreach`` are as the op.
"""

from __future__ import annotations

import re
from typing import Final

__all__ = ["FREE_NAMESPACES", "base", "has_free_name"]

ELEMENTWISE: Final = """
    add add_relu bitwise_and bitwise_left_shift bitwise_or bitwise_right_shift bitwise_xor celu complex
    compute_linear_combination dequantize dirichlet_grad div elu embedding_renorm floor_divide gelu glu hardshrink
    hardsigmoid hardswish hardtanh irshift isin isinf isnan leaky_relu linalg_cross log_softmax log_softmax_backward_data
    lshift masked masked_fill masked_scale masked_softmax mish mul nested_tensor_softmax_with_shape polar prelu_kernel relu
    remainder renorm rrelu_with_noise rshift rsub safe_softmax softmax softmax_backward_data softplus softshrink
    sparse_log_softmax sparse_log_softmax_backward_data sparse_softmax sparse_softmax_backward_data standard_gamma_grad sub
    thnn_fused_gru_cell thnn_fused_lstm_cell thnn_fused_lstm_cell_backward_impl threshold transform_bias_rescale_qkv where
"""
REDUCTION: Final = """
    aminmax bincount count_nonzero cummax cummax_helper cummin cummin_helper cumprod cumsum dist hash_tensor histc histogram
    histogramdd_bin_edges histogramdd_from_bin_cts histogramdd_from_bin_tensors is_all_true is_any_true kthvalue
    logcumsumexp median mode nanmedian native_norm nested_sum norm powsum prod segment_reduce sparse_csr_prod sparse_csr_sum
    sparse_sum std_mean trace var_mean
"""
NORMALIZATION: Final = """
    batch_norm_backward_elemt batch_norm_backward_reduce batch_norm_elemt batch_norm_gather_stats
    batch_norm_gather_stats_with_counts batch_norm_no_update batch_norm_stats batch_norm_update_stats batch_norm_with_update
    cudnn_batch_norm fused_rms_norm miopen_batch_norm native_batch_norm native_batch_norm_legit
    native_batch_norm_legit_no_training native_group_norm native_layer_norm quantized_batch_norm weight_norm_interface
"""
POOLING_AND_INTERPOLATION: Final = """
    adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool2d adaptive_max_pool3d
    affine_grid_generator avg_pool1d avg_pool2d avg_pool3d cudnn_affine_grid_generator cudnn_grid_sampler
    fractional_max_pool2d fractional_max_pool3d grid_sampler_2d grid_sampler_2d_cpu_fallback grid_sampler_3d
    max_pool2d_with_indices max_pool3d_with_indices max_unpool2d max_unpool3d mkldnn_adaptive_avg_pool2d mkldnn_max_pool2d
    mkldnn_max_pool3d quantized_max_pool1d quantized_max_pool2d quantized_max_pool3d upsample_bicubic2d
    upsample_bicubic2d_aa upsample_bilinear2d upsample_bilinear2d_aa upsample_lanczos2d_aa upsample_linear1d
    upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_nearest_exact1d upsample_nearest_exact2d
    upsample_nearest_exact3d upsample_trilinear3d
"""
LOSSES_AND_OPTIMIZERS: Final = """
    amp_foreach_non_finite_check_and_unscale amp_update_scale binary_cross_entropy binary_cross_entropy_with_logits ctc_loss
    cudnn_ctc_loss fused_adagrad fused_adam fused_adamw fused_sgd huber_loss miopen_ctc_loss mse_loss multi_margin_loss
    multilabel_margin_loss nll_loss nll_loss2d smooth_l1_loss soft_margin_loss
"""
RANDOM: Final = """
    bernoulli binomial cauchy dropout exponential fill_mem_eff_dropout_mask fused_dropout geometric log_normal multinomial
    native_dropout normal philox_key_fold_in philox_key_split philox_normal philox_uniform poisson rand_like randint_like
    randn_like random sample_dirichlet standard_gamma uniform
"""
SORTING_AND_INDEXING: Final = """
    bucketize embedding embedding_bag embedding_bag_dense embedding_bag_forward_only embedding_bag_per_sample_weights
    embedding_dense gather index index_add index_fill index_put index_put_impl index_reduce index_select masked_select
    nonzero nonzero_static put scatter scatter_add scatter_reduce searchsorted sort take topk unique unique2
    unique_consecutive unique_dim unique_dim_consecutive unsafe_index unsafe_index_put unsafe_masked_index
    unsafe_masked_index_put_accumulate
"""
QUANTIZATION: Final = """
    fake_quantize_learnable_per_channel_affine fake_quantize_learnable_per_tensor_affine
    fake_quantize_per_channel_affine_cachemask fake_quantize_per_tensor_affine_cachemask
    fake_quantize_per_tensor_affine_cachemask_tensor_qparams fused_moving_avg_obs_fq_helper int_repr
    make_per_channel_quantized_tensor make_per_tensor_quantized_tensor q_per_channel_scales q_per_channel_zero_points
    quantize_per_channel quantize_per_tensor quantize_per_tensor_dynamic
"""
COPIES: Final = """
    block_diag cat channel_shuffle chunk_cat clone coalesce coalesced col2im constant_pad_nd convert_indices_from_coo_to_csr
    convert_indices_from_csr_to_coo convert_weight_to_int4pack convert_weight_to_int4pack_for_cpu copy copy_from
    copy_from_and_resize copy_sparse_to_sparse cslt_compress cudnn_rnn_flatten_weight diag_embed dyn_quant_pack_4bit_weight
    empty_like empty_per_channel_affine_quantized empty_quantized fill flip full_like functional_assert_async
    functional_assert_scalar functional_sym_constrain_range functional_sym_constrain_range_for_size im2col
    jagged_to_padded_dense lazy_clone lift linspace logspace lu_unpack mkldnn_reorder_conv2d_weight
    mkldnn_reorder_conv3d_weight mkldnn_reshape mkldnn_transpose native_channel_shuffle
    nested_compute_contiguous_strides_offsets nested_from_padded nested_from_padded_and_nested_example
    nested_from_padded_tensor nested_get_jagged_dummy nested_get_lengths nested_get_max_seqlen nested_get_min_seqlen
    nested_get_offsets nested_select nested_tensor_from_mask nested_tensor_from_tensor_list nested_tensor_size
    nested_tensor_storage_offsets nested_tensor_strides new_empty new_empty_strided new_full new_ones new_zeros
    new_zeros_with_same_feature_meta ones_like pack_padded_sequence padded_dense_to_jagged pin_memory pixel_shuffle
    pixel_unshuffle range record_stream reflection_pad1d reflection_pad2d reflection_pad3d repeat repeat_interleave
    replication_pad1d replication_pad2d replication_pad3d reshape resize resize_as resize_as_sparse resize_output roll rot90
    set sparse_compressed_tensor sparse_coo_tensor_with_dims_and_tensors sparse_mask sparse_mask_projection sparse_resize
    sparse_resize_and_clear sparse_semi_structured_tile spdiags stack to to_dense to_mkldnn to_padded_tensor to_sparse
    to_sparse_bsc to_sparse_bsr to_sparse_csc to_sparse_csr to_sparse_semi_structured tril triu unsafe_split
    unsafe_split_with_sizes unsafe_view zero zeros_like
"""
FREE: Final = frozenset(
    f"{ELEMENTWISE} {REDUCTION} {NORMALIZATION} {POOLING_AND_INTERPOLATION} {LOSSES_AND_OPTIMIZERS} {RANDOM} "
    f"{SORTING_AND_INDEXING} {QUANTIZATION} {COPIES}".split()
)
"""Names in ``aten::``, without what `base` takes away."""

FREE_QUANTIZED: Final = frozenset(
    """
    batch_norm batch_norm1d batch_norm1d_relu batch_norm2d batch_norm2d_relu batch_norm3d batch_norm3d_relu batch_norm_relu
    cat cat_relu celu clamp conv1d_unpack dropout elu embedding_2bit embedding_4bit embedding_byte group_norm hardswish
    instance_norm layer_norm leaky_relu linear_prepack_fp16_legacy linear_prepack_legacy linear_unpack linear_unpack_fp16
    max_pool1d max_pool2d prelu relu6 sigmoid softmax threshold
    """.split()
)
"""Names in ``quantized::``; those that begin with ``add``, ``mul`` and ``embedding_bag`` are free too."""

FREE_OTHERS: Final = frozenset(
    """
    _quantized::_wrapped_linear_prepack _quantized::add _quantized::linear_prepack_fp16_legacy
    _quantized::linear_prepack_legacy _quantized::wrapped_fbgemm_pack_gemm_matrix_fp16 inductor::_alloc_from_pool
    inductor::_reinterpret_tensor inductor::accumulate_grad_ mkl::_mkl_reorder_linear_weight
    mkldnn::_get_mkldnn_serialized_md mkldnn::_reorder_convolution_transpose_weight mkldnn::_reorder_convolution_weight
    mkldnn::_reorder_linear_weight mkldnn::_reorder_mkldnn_rnn_layer_weight onednn::linear_prepack_fp16 onednn::qadd
    onednn::qadd_relu onednn::qbatch_norm2d onednn::qconv_prepack onednn::qlinear_prepack onednn::qmul
    """.split()
)

FREE_NAMESPACES: Final = frozenset(
    """
    _c10d_functional _c10d_functional_autograd _dtensor c10d debug_mode_ops debugprims export fsdp prim profiler quantization
    rngprims static_runtime
    """.split()
)
"""Collectives, conversions, and what compilers put into graphs."""

_AFFIXES: Final = re.compile(r"_(backward|forward|functional|copy|jvp|scatter)$")


def base(name: str) -> str:
    """``_foreach_add_`` and ``add_`` -> ``add``; ``gelu_backward`` -> ``gelu``."""
    name = name.removeprefix("_foreach_").rstrip("_")
    while (shorter := _AFFIXES.sub("", name)) != name:
        name = shorter
    return name


def has_free_name(name: str) -> bool:
    """Whether an op with this name, such as ``aten::add_``, is known to have no FLOPs."""
    space, _, op = name.partition("::")
    if space == "aten":
        return base(op).lstrip("_") in FREE
    if space == "prims":  # elementwise, reductions and views, but for these
        return not op.startswith(("fft_", "svd"))
    if space == "quantized":
        return op.removesuffix("_out") in FREE_QUANTIZED or op.startswith(("add", "mul", "embedding_bag"))
    if space == "symm_mem":  # collectives, but for those that are fused with a product
        return not op.endswith("mm") and "matmul" not in op
    return space in FREE_NAMESPACES or name in FREE_OTHERS
