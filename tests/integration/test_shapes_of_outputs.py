"""The rules for the shapes that ops return, which files of torch.profiler do not have: against what PyTorch returns."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final

import pytest
import torch

from torchprof.flops.formulas import FORMULAS
from torchprof.flops.outputs import RULES, output_shapes
from torchprof.flops.outputs_of_convolutions import CONVOLUTIONS

Shape = tuple[int, ...]

X, W, WT, B = (2, 4, 9, 8), (6, 2, 3, 3), (4, 3, 3, 3), (6,)
S, P, D = [2, 1], [1, 0], [1, 2]
Q, K, V = (2, 4, 16, 32), (2, 4, 24, 32), (2, 4, 24, 32)
SQUARE = (3, 5, 5)
CASES: Final[list[tuple[str, list[Any]]]] = [
    ("mm", [(2, 3), (3, 4)]),
    ("bmm", [(5, 2, 3), (5, 3, 4)]),
    ("addmm", [(4,), (2, 3), (3, 4)]),
    ("baddbmm", [(5, 1, 4), (5, 2, 3), (5, 3, 4)]),
    ("addbmm", [(2, 4), (5, 2, 3), (5, 3, 4)]),
    ("_addmm_activation", [(4,), (2, 3), (3, 4)]),
    ("linear", [(7, 2, 3), (4, 3), (4,)]),
    ("linear", [(7, 2, 3), (3,), None]),
    ("mv", [(2, 3), (3,)]),
    ("addmv", [(2,), (2, 3), (3,)]),
    ("addr", [(2, 3), (2,), (3,)]),
    ("dot", [(5,), (5,)]),
    ("vdot", [(5,), (5,)]),
    ("convolution", [X, W, B, S, P, D, False, [0, 0], 2]),
    ("convolution", [X, WT, None, [2, 2], [1], [1], True, [1], 2]),
    ("convolution", [(2, 4, 9), (6, 4, 3), None, [1], [0], [1], False, [0], 1]),
    ("convolution_backward", [(2, 6, 5, 4), X, W, [6], S, P, D, False, [0, 0], 2, [True, True, True]]),
    ("convolution_backward", [(2, 6, 5, 4), X, W, [6], S, P, D, False, [0, 0], 2, [False, True, True]]),
    ("_convolution", [X, W, B, S, P, D, False, [0, 0], 2, False, False, False, False]),
    ("_slow_conv2d_forward", [X, (6, 4, 3, 3), [3, 3], B, S, P]),
    ("slow_conv3d_forward", [(2, 4, 5, 6, 7), (6, 4, 3, 3, 3), [3] * 3, B, [1] * 3, [1] * 3]),
    ("slow_conv_dilated2d", [X, (6, 4, 3, 3), [3, 3], B, S, P, D]),
    ("slow_conv_dilated3d", [(2, 4, 5, 6, 7), (6, 4, 3, 3, 3), [3] * 3, B, [1] * 3, [1] * 3, [1] * 3]),
    ("slow_conv_transpose2d", [X, (4, 6, 3, 3), [3, 3], B, [2, 2], [1, 1], [1, 1], [1, 1]]),
    ("slow_conv_transpose3d", [(2, 4, 5, 6, 7), (4, 6, 3, 3, 3), [3] * 3, B, [2] * 3, [1] * 3, [1] * 3, [1] * 3]),
    ("conv_tbc", [(7, 2, 3), (3, 3, 4), (4,), 1]),
    ("mkldnn_convolution", [X, W, B, P, S, D, 2]),
    ("_scaled_dot_product_flash_attention_for_cpu", [Q, K, V]),
    ("_cdist_forward", [(2, 3, 4), (2, 5, 4), 2.0, None]),
    ("_pdist_forward", [(5, 3), 2.0]),
    ("_pdist_backward", [(10,), (5, 3), 2.0, (10,)]),
    ("cholesky", [SQUARE]),
    ("cholesky_inverse", [SQUARE]),
    ("linalg_cholesky_ex", [SQUARE]),
    ("linalg_inv_ex", [SQUARE]),
    ("linalg_lu_factor_ex", [SQUARE]),
    ("linalg_householder_product", [(5, 3), (3,)]),
    ("geqrf", [(5, 3)]),
    ("ormqr", [(5, 3), (3,), (5, 2)]),
    ("linalg_solve_triangular", [(5, 5), (5, 2)]),
    ("triangular_solve", [(5, 2), (5, 5)]),
    ("cholesky_solve", [(5, 2), (5, 5)]),
    ("linalg_qr", [(2, 5, 3), "reduced"]),
    ("linalg_qr", [(2, 5, 3), "complete"]),
    ("linalg_qr", [(3, 5), "r"]),
    ("linalg_lu", [(2, 5, 3)]),
    ("_linalg_solve_ex", [SQUARE, (3, 5, 2)]),
    ("_linalg_solve_ex", [SQUARE, (3, 5)]),
    ("_linalg_det", [SQUARE]),
    ("_linalg_slogdet", [SQUARE]),
    ("_fft_r2c", [(2, 9, 8), [1, 2], 0, True]),
    ("_fft_r2c", [(2, 9, 8), [2, 1], 0, False]),
    ("_foreach_mm", [[(2, 3), (4, 5)], [(3, 6), (5, 7)]]),
    (
        "mkldnn_rnn_layer",
        [(7, 2, 3), (16, 3), (16, 4), (16,), (16,), (2, 4), (2, 4), False, [], 2, 4, 1, True, False, False, False],
    ),
]


def overload(name: str) -> Any:
    packet = getattr(torch.ops.aten, name)
    return packet.default if "default" in packet.overloads() else getattr(packet, packet.overloads()[0])


def filled(argument: Any, fill: Callable[[Shape], Any]) -> Any:
    """An argument with something in place of every shape."""
    if isinstance(argument, list):
        return [filled(each, fill) for each in argument]
    return fill(argument) if isinstance(argument, tuple) else argument


def recorded(arguments: list[Any]) -> tuple[list[Shape], str]:
    """The shapes among the arguments, and all of them as a trace has them."""
    inputs: list[Shape] = []

    def note(shape: Shape) -> dict[str, Any]:
        inputs.append(shape)
        return {}

    return inputs, json.dumps(filled(arguments, note))


@pytest.mark.parametrize(("name", "arguments"), CASES, ids=lambda value: value if isinstance(value, str) else "")
def test_a_rule_says_what_pytorch_returns(name: str, arguments: list[Any]) -> None:
    def tensor(shape: Shape) -> torch.Tensor:
        return torch.eye(shape[-1]).expand(shape).clone() if shape == SQUARE else torch.rand(shape)

    options = {"upper": True} if name == "linalg_solve_triangular" else {}
    returned = overload(name)(*filled(arguments, tensor), **options)
    shapes = [
        tuple(each.shape)
        for each in (returned if isinstance(returned, tuple | list) else (returned,))
        if isinstance(each, torch.Tensor)
    ]
    inputs, text = recorded(arguments)
    found = output_shapes(f"aten::{name}", inputs, text)
    assert found
    assert list(found) == shapes[: len(found)]


# What has no kernel here: by the shapes that its meta kernel has, or that its schema is documented to return.
X3, STATE = (7, 2, 3), (2, 2, 4)
ELSEWHERE: Final[list[tuple[str, list[Any], list[Shape]]]] = [
    (
        "aten::_cudnn_rnn",
        [X3, [(16, 3), (16, 4)], 2, None, STATE, STATE, 2, 4, 0, 1, False, 0.0, True, True, [], None],
        [(7, 2, 8)],
    ),
    (
        "aten::_cudnn_rnn",
        [(9, 3), [(16, 3)], 2, None, STATE, STATE, 2, 4, 2, 1, False, 0.0, True, False, [2, 2], None],
        [(9, 2)],
    ),
    ("aten::miopen_rnn", [X3, [(16, 3), (16, 4)], 2, STATE, STATE, 2, 4, 1, True, 0.0, True, False, [], None], [(7, 2, 4)]),
    ("aten::_cudnn_rnn_backward", [X3, [(16, 3)], 2, (90,), STATE], [X3]),
    ("aten::_fft_c2r", [(2, 9, 5), [1, 2], 0, 8], [(2, 9, 8)]),
    ("aten::_grouped_mm", [(8, 3), (4, 3, 5), (4,)], [(8, 5)]),
    ("aten::_grouped_mm", [(4, 8, 3), (3, 5), (4,)], [(8, 5)]),
    ("aten::_grouped_mm", [(4, 8, 3), (4, 3, 5)], [(4, 8, 5)]),
    ("aten::_grouped_mm", [(8, 3), (3, 5), (4,), (5,)], [(4, 8, 5)]),
    ("aten::_scaled_grouped_mm", [(8, 3), (3, 5), (8,), (5,), (4,)], [(4, 8, 5)]),
    ("aten::linear_backward", [X3, (7, 2, 5), (5, 3), [True, False, True]], [X3, (5,)]),
    ("aten::_slow_conv2d_backward", [(2, 6, 5, 4), X, (6, 4, 3, 3), [3, 3], S, P, [False, True, True]], [(6, 4, 3, 3), (6,)]),
    ("aten::convolution_backward_overrideable", [(1,), X, WT, S, P, D, True, [0], 2, [True] * 3], [X, WT, (6,)]),
    ("aten::linalg_lu", [(3, 5), False], [(0,), (3, 3), (3, 5)]),
    ("aten::linalg_lu_solve", [SQUARE, (3, 5), (3, 5, 2)], [(3, 5, 2)]),
    ("aten::_weight_int4pack_mm", [(2, 64), (4, 1, 32, 4), 32, (2, 32, 2)], [(2, 32)]),
    ("aten::_dyn_quant_matmul_4bit", [(2, 64), (999,), 32, 64, 48], [(2, 48)]),
    ("aten::_sparse_semi_structured_linear", [(2, 64), (48, 32), (48, 4)], [(2, 48)]),
    ("mkldnn::_linear_pointwise", [X3, (5, 3), (5,), "relu", [], ""], [(7, 2, 5)]),
    ("mkldnn::_linear_pointwise", [X3, (7, 2, 5), (5, 3), (5,), "add"], [(7, 2, 5)]),
    ("mkl::_mkl_linear", [X3, (99, 1), (5, 3), None, 14], [(7, 2, 5)]),
    ("quantized::quantized_lstm_cell_dynamic", [(2, 3), [(2, 4), (2, 4)], None, None, (16,), (16,)], [(2, 4), (2, 4)]),
]


@pytest.mark.parametrize(
    ("name", "arguments", "expected"), ELSEWHERE, ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_rule_says_what_an_op_of_another_device_returns(name: str, arguments: list[Any], expected: list[Shape]) -> None:
    inputs, text = recorded(arguments)
    assert list(output_shapes(name, inputs, text)) == expected


def test_broadcast_batches_of_equations_are_left_unknown() -> None:
    assert output_shapes("aten::_linalg_solve_ex", [(3, 5, 5), (1, 5, 2)], "[{}, {}]") == ()


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_arguments_of_convolutions_stand_where_the_schema_has_them(name: str) -> None:
    listed = [argument.name for argument in overload(name)._schema.arguments]
    places = {key: at for key, at in CONVOLUTIONS[name]._asdict().items() if at is not None and not isinstance(at, bool)}
    assert {key: listed[at] for key, at in places.items()} == {key: key for key in places}
    for key in ("dilation", "groups", "output_padding"):
        assert (key in listed) == (key in places)


def test_every_rule_is_of_an_op_with_a_formula() -> None:
    assert set(RULES) - set(FORMULAS) == set()


def test_every_rule_of_an_op_that_runs_here_is_tried() -> None:
    elsewhere = (
        *(
            "cudnn",
            "miopen",
            "mps",
            "mkldnn",
            "mkl",
            "overrideable",
            "depthwise",
            "_nnpack",
            "inductor",
            "torch_attn",
            "triton",
        ),
        *("_scaled_", "_int", "int4pack", "int8pack", "_4bit", "semi_structured", "mixed_dtypes", "quantized", "grouped"),
        *("_fft_c2", "_attention_", "_cdist_backward", "_cholesky_solve_helper", "lu_solve", "_backward"),
    )
    tried = {f"aten::{name}" for name, _ in CASES}
    assert {name for name in RULES if name not in tried and not any(part in name for part in elsewhere)} == set()


PACKED: Final = ("quantized", "sparse::", "onednn", "int4mm_packed")
"""Ops whose weight is an object: its size is no argument."""


def test_ops_with_a_formula_have_a_rule_unless_they_write_in_place_or_their_weight_is_an_object() -> None:
    without = {
        name for name in set(FORMULAS) - set(RULES) if not name.endswith("_") and not any(part in name for part in PACKED)
    }
    assert without == {
        *("aten::_flash_attention_forward_no_dropout_inplace", "torch_attn::_varlen_attn_out"),  # these write in place as well
        *("aten::_lstm_mps", "aten::lstm_mps_backward", "aten::mps_convolution_backward", "aten::_scaled_grouped_mm_v2"),
        "mkldnn::_convolution_transpose_pointwise",
    }
