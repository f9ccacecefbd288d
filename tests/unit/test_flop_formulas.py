"""Formulas of ops that no test can run here, for they are of other devices: against those of ops that do the same."""

from __future__ import annotations

from typing import Any

import pytest

from torchprof.flops.formulas import FORMULAS, Operand


def flops(name: str, *arguments: Any, out: Any = None) -> int | None:
    given = [Operand(each) if isinstance(each, tuple) else each for each in arguments]
    given = [[Operand(x) if isinstance(x, tuple) else x for x in each] if isinstance(each, list) else each for each in given]
    return FORMULAS[name].compute(*given, *([Operand(out)] if out is not None else []))


X, W, ROWS, OUT = (2, 4, 9, 9), (8, 2, 3, 3), 2, (2, 8, 5, 5)
TRANSPOSED_W = (4, 4, 3, 3)
CONVOLUTION = 2 * 2 * 8 * 5 * 5 * 2 * 9
TRANSPOSED = 2 * 2 * 4 * 9 * 9 * 4 * 9
S, P, D, G = [2, 2], [1, 1], [1, 1], 2


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("aten::convolution", (X, W, None, S, P, D, False, [0, 0], G)),
        ("aten::_convolution", (X, W, None, S, P, D, False, [0, 0], G, False, False, False, False)),
        ("aten::cudnn_convolution", (X, W, P, S, D, G, True, False, True)),
        ("aten::cudnn_convolution_relu", (X, W, None, S, P, D, G)),
        ("aten::cudnn_convolution_add_relu", (X, W, OUT, 1, None, S, P, D, G)),
        ("aten::miopen_convolution", (X, W, None, P, S, D, G, True, False)),
        ("aten::mkldnn_convolution", (X, W, None, P, S, D, G)),
        ("aten::slow_conv_dilated2d", (X, W, [3, 3], None, S, P, D)),
        ("aten::_slow_conv2d_forward", (X, W, [3, 3], None, S, P)),
        ("aten::_conv_depthwise2d", (X, W, [3, 3], None, S, P, D)),
        ("aten::_nnpack_spatial_convolution", (X, W, None, P, S)),
        ("mkldnn::_convolution_pointwise", (X, W, None, P, S, D, G, "relu", [], None)),
        ("mkldnn::_convolution_pointwise", (X, OUT, W, None, P, S, D, G, "add", None, None, [], None)),
        ("mkldnn::_convolution_pointwise_", (OUT, X, W, None, P, S, D, G, "add", None, None, [], None)),
    ],
)
def test_convolutions_of_every_library_are_counted_alike(name: str, arguments: tuple[Any, ...]) -> None:
    assert flops(name, *arguments) == CONVOLUTION


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("aten::convolution", (X, TRANSPOSED_W, None, S, P, D, True, [0, 0], 2)),
        ("aten::cudnn_convolution_transpose", (X, TRANSPOSED_W, P, [0, 0], S, D, 2, True, False, True)),
        ("aten::miopen_convolution_transpose", (X, TRANSPOSED_W, None, P, [0, 0], S, D, 2, True, False)),
        ("aten::slow_conv_transpose2d", (X, TRANSPOSED_W, [3, 3], None, S, P, [0, 0], D)),
        ("mkldnn::_convolution_transpose_pointwise", (X, TRANSPOSED_W, None, P, [0, 0], S, D, 2, "none", [], None)),
    ],
)
def test_transposed_convolutions_of_every_library_are_counted_alike(name: str, arguments: tuple[Any, ...]) -> None:
    assert flops(name, *arguments) == TRANSPOSED


@pytest.mark.parametrize("mask", [[True, True, True], [False, True, False], [True, False, True], [False, False, True]])
def test_backward_of_a_convolution_counts_the_gradients_that_are_asked_for(mask: list[bool]) -> None:
    expected = CONVOLUTION * sum(mask[:2])
    assert flops("aten::convolution_backward", OUT, X, W, None, S, P, D, False, [0, 0], G, mask) == expected
    assert flops("aten::convolution_backward_overrideable", OUT, X, W, S, P, D, False, [0, 0], G, mask) == expected
    assert flops("aten::_slow_conv2d_backward", OUT, X, W, [3, 3], S, P, mask) == expected


LSTM = 2 * 5 * 3 * 4 * 16 * ((8 + 16) + (16 + 16))
INPUT, STATE = (5, 3, 8), (2, 3, 16)
WEIGHTS = [(64, 8), (64, 16), (64,), (64,)]


def test_lstms_of_every_library_are_counted_alike() -> None:
    more: tuple[Any, ...] = (False, 0.0, True, False, [], None)
    assert flops("aten::_cudnn_rnn", INPUT, WEIGHTS, 4, None, STATE, STATE, 2, 16, 0, 2, *more) == LSTM
    assert flops("aten::miopen_rnn", INPUT, WEIGHTS, 4, STATE, STATE, 2, 16, 2, *more) == LSTM
    assert flops("aten::_lstm_mps", INPUT, [STATE, STATE], WEIGHTS, True, 2, 0.0, True, False, False) == LSTM
    assert flops("aten::quantized_lstm", INPUT, [STATE, STATE], [None], True, 2, 0.0, True, False, False, None, True) == LSTM
    packed = ((15, 8), (5,), [STATE, STATE], [None], True, 2, 0.0, True, False, None, True)
    assert flops("aten::quantized_lstm", *packed) == LSTM


def test_packed_sequences_and_directions_are_counted_by_steps() -> None:
    both = 2 * 15 * 2 * 4 * 16 * ((8 + 16) + (32 + 16))
    assert (
        flops("aten::_cudnn_rnn", (15, 8), WEIGHTS, 4, None, STATE, STATE, 2, 16, 0, 2, False, 0.0, True, True, [3] * 5, None)
        == both
    )


@pytest.mark.parametrize("weights", [False, True])
def test_backward_of_cudnn_counts_the_gradients_of_weights_where_they_are_asked_for(weights: bool) -> None:
    tensors = (INPUT, WEIGHTS, 4, (9,), STATE, STATE, INPUT, INPUT, None, None)
    options: tuple[Any, ...] = (False, 0.0, True, False, [], None, (9,), [True, True, True, weights])
    assert flops("aten::_cudnn_rnn_backward", *tensors, 2, 16, 0, 2, *options) == LSTM * (2 if weights else 1)
    assert flops("aten::miopen_rnn_backward", *tensors, 2, 16, 2, *options) == LSTM * (2 if weights else 1)


Q, K = (2, 4, 8, 16), (2, 4, 10, 16)
BSHD = (2, 8, 4, 16), (2, 10, 4, 16)
ATTENTION = 2 * (2 * 4) * (8 * 10) * (16 + 16)
PRODUCT = ATTENTION // 2


def test_attention_of_every_kernel_is_counted_alike() -> None:
    for name in ("flash_attention", "flash_attention_for_cpu", "efficient_attention", "cudnn_attention"):
        assert flops(f"aten::_scaled_dot_product_{name}", Q, K, K) == ATTENTION
        assert flops(f"aten::_scaled_dot_product_{name}_backward", Q, Q, K, K) == 5 * PRODUCT
    q, k = BSHD  # sequences before heads
    assert flops("aten::_flash_attention_forward", q, k, k, None, None, 8, 10, 0.0, False, False) == ATTENTION
    assert flops("aten::_efficient_attention_forward", q, k, k, None, None, None, None, None, 0.0, 0) == ATTENTION
    assert flops("aten::_flash_attention_backward", q, q, k, k, q, None, None, None, 8, 10, 0.0, False) == 5 * PRODUCT
    assert flops("aten::_efficient_attention_backward", q, q, k, k, None, q, None, None, 8, 10, (1,), 0.0) == 5 * PRODUCT


def test_attention_of_sequences_of_several_lengths_is_known_only_where_all_are_as_long() -> None:
    starts = (3,)
    assert flops("aten::_flash_attention_forward", (16, 4, 16), (20, 4, 16), (20, 4, 16), starts, starts, 8, 10) == ATTENTION
    assert flops("aten::_flash_attention_forward", (13, 4, 16), (20, 4, 16), (20, 4, 16), starts, starts, 8, 10) is None
    shapes = (1, 16, 4, 16), (1, 20, 4, 16), (1, 20, 4, 16)
    assert flops("aten::_efficient_attention_forward", *shapes, None, starts, starts, 8, 10) == ATTENTION
    assert flops("aten::_efficient_attention_forward", *shapes, None, starts, starts, 9, 10) is None


@pytest.mark.parametrize(
    ("name", "arguments", "out"),
    [
        ("aten::linear", ((2, 3, 4), (5, 4)), None),
        ("aten::mkldnn_linear", ((2, 3, 4), (5, 4)), None),
        ("mkldnn::_linear_pointwise", ((6, 4), (5, 4), None, "none", [], ""), None),
        ("mkldnn::_linear_pointwise", ((6, 4), (6, 5), (5, 4), None, "add"), None),
        ("mkl::_mkl_linear", ((6, 4), (99, 1), (5, 4), None, 6), None),
        ("aten::_weight_int8pack_mm", ((6, 4), (5, 4)), None),
        ("aten::_weight_int4pack_mm", ((6, 4), (1, 1, 32, 4), 2, (2, 5, 2)), None),
        ("aten::_dyn_quant_matmul_4bit", ((6, 4), (99,), 2, 4, 5), None),
        ("quantized::linear", ((2, 3, 4),), (2, 3, 5)),
        ("onednn::qlinear_pointwise", ((2, 3, 4),), (2, 3, 5)),
        ("aten::_scaled_mm", ((6, 4), (4, 5)), None),
    ],
)
def test_linear_layers_of_every_kernel_are_counted_alike(name: str, arguments: tuple[Any, ...], out: Any) -> None:
    assert flops(name, *arguments, out=out) == 2 * 6 * 4 * 5


def test_two_numbers_of_four_bits_in_an_element_are_two_products() -> None:
    packed = Operand((6, 2), "float4_e2m1fn_x2"), Operand((2, 5), "float4_e2m1fn_x2")
    assert FORMULAS["aten::_scaled_mm"].compute(*packed) == 2 * 6 * 4 * 5


@pytest.mark.parametrize(
    ("a", "b", "products"),
    [
        ((3, 6, 4), (3, 4, 5), 3 * 6 * 4 * 5),
        ((6, 4), (3, 4, 5), 6 * 4 * 5),
        ((3, 6, 4), (4, 5), 6 * 4 * 5),
        ((6, 4), (4, 5), 6 * 4 * 5),
    ],
)
def test_grouped_products(a: tuple[int, ...], b: tuple[int, ...], products: int) -> None:
    for name in ("aten::_grouped_mm", "aten::_scaled_grouped_mm", "aten::_scaled_grouped_mm_v2"):
        assert flops(name, a, b) == 2 * products


def elimination(n: int) -> int:
    """Operations of an LU factorization, counted one by one."""
    operations = 0
    for column in range(n):
        operations += 1  # one by the pivot
        for _row in range(column + 1, n):
            operations += 1  # the factor
            operations += 2 * (n - column - 1)  # times the row of the pivot, subtracted
    return operations


def cholesky(n: int) -> int:
    """Operations of a Cholesky factorization, counted one by one."""
    operations = 0
    for column in range(n):
        operations += 2 * column + 1  # the diagonal: squares, subtracted, and a root
        operations += (n - column - 1) * (2 * column + 1)
    return operations


def substitution(n: int) -> int:
    """Operations of solving with both triangles of an LU factorization, of which one has ones on its diagonal."""
    return sum(2 * row for row in range(n)) + sum(2 * row + 1 for row in range(n))


@pytest.mark.parametrize("n", [1, 2, 5, 8])
def test_factorizations_have_the_operations_of_lapack(n: int) -> None:
    assert flops("aten::linalg_lu_factor_ex", (3, n, n)) == 3 * elimination(n)
    assert flops("aten::linalg_cholesky_ex", (3, n, n)) == 3 * cholesky(n)
    assert flops("aten::_linalg_solve_ex", (3, n, n), (3, n, 2)) == 3 * (elimination(n) + 2 * substitution(n))
    assert flops("aten::_linalg_solve_ex", (3, n, n), (3, n)) == 3 * (elimination(n) + substitution(n))
    assert flops("aten::linalg_solve_triangular", (n, n), (7, n, 2)) == 7 * 2 * n * n


def test_a_qr_factorization_costs_less_where_only_r_is_asked_for() -> None:
    r, reduced = flops("aten::linalg_qr", (9, 4), "r"), flops("aten::linalg_qr", (9, 4), "reduced")
    assert flops("aten::linalg_qr", (9, 4), "reduced", (9, 4), (4, 4)) == reduced  # with out=
    assert r == flops("aten::geqrf", (9, 4)) == round(2 * 9 * 16 - 2 * 64 / 3 + 36 + 16 + 56 / 3)
    assert r is not None
    assert reduced is not None
    assert reduced - r == flops("aten::linalg_householder_product", (9, 4), (4,))
