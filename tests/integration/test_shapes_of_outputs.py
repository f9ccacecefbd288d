"""The rules for the shapes that ops return, which files of torch.profiler do not have: against what PyTorch returns."""

from __future__ import annotations

import json
from typing import Any, Final

import pytest
import torch

from torchprof.flops.formulas import FORMULAS
from torchprof.flops.outputs import CONVOLUTIONS, RULES, output_shapes

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
]


def overload(name: str) -> Any:
    packet = getattr(torch.ops.aten, name)
    return packet.default if "default" in packet.overloads() else getattr(packet, packet.overloads()[0])


@pytest.mark.parametrize(("name", "arguments"), CASES, ids=lambda value: value if isinstance(value, str) else "")
def test_a_rule_says_what_pytorch_returns(name: str, arguments: list[Any]) -> None:
    made = [
        torch.eye(each[-1]).expand(each).clone() if each == SQUARE else torch.rand(each) if isinstance(each, tuple) else each
        for each in arguments
    ]
    options = {"upper": True} if name == "linalg_solve_triangular" else {}
    returned = overload(name)(*made, **options)
    shapes = [
        tuple(each.shape)
        for each in (returned if isinstance(returned, tuple) else (returned,))
        if isinstance(each, torch.Tensor)
    ]
    text = json.dumps([{} if isinstance(each, tuple) else each for each in arguments])
    found = output_shapes(f"aten::{name}", [each for each in arguments if isinstance(each, tuple)], text)
    assert found
    assert list(found) == shapes[: len(found)]


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
        "cudnn",
        "miopen",
        "mps",
        "mkldnn_linear",
        "_scaled_",
        "_int",
        "_nnpack",
        "depthwise",
        "overrideable",
        "pack_mm",
        "pointwise",
    )
    elsewhere = (*elsewhere, "_fft", "_attention_", "_cdist_backward", "_cholesky_solve_helper")
    tried = {f"aten::{name}" for name, _ in CASES}
    assert {name for name in RULES if name not in tried and not any(part in name for part in elsewhere)} == set()
