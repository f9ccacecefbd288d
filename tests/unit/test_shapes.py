"""Shapes that differ between the calls of a module are shown as such."""

from __future__ import annotations

import pytest

from torchprof.rendering.shapes import shapes_of_calls
from torchprof.trace.shapes import Operand

Calls = tuple[tuple[Operand, ...], ...]


@pytest.mark.parametrize(
    ("calls", "text"),
    [
        ((((4, 32, 54, 54),),), "[4, 32, 54, 54]"),
        ((((),),), "[]"),
        (((),), ""),
        ((((1, 5, 512),), ((1, 1, 512),)), "[1, 1..5, 512]"),
        ((((1, 8, 5, 64), (1, 8, 5, 64)), ((1, 8, 1, 64), (1, 8, 6, 64))), "[1, 8, 1..5, 64], [1, 8, 5..6, 64]"),
        ((((4, 32, 54, 54),), ((4, 64, 27, 27),)), "[4, 32, 54, 54] (+1)"),
        ((((2, 3),), ((2,),), ((3,),)), "[2, 3] (+2)"),
        ((((2, 3),), ((2, 3), (1,))), "[2, 3] (+1)"),
        ((((2, 3), "Data"), ((4, 3), "Data")), "[2..4, 3], Data"),
        ((((2, "j"), (5,)), ((2, "j"), (6,))), "[2, j], [5..6]"),
        ((((2, "j"),), ((3, "j"),)), "[2, j] (+1)"),
        ((((1, 2, 3),) * 30,), "[1, 2, 3], [1, 2, 3], [1, 2, 3] +27"),
        ((((2, "j", 16),),), "[2, j, 16]"),
        ((((2, None, 16),), ((4, None, 16),)), "[2, ?, 16] (+1)"),
        ((((2, 3), "Normal"), ((4, 3), "Normal")), "[2..4, 3], Normal"),
        ((("Normal",), ((4, 3),)), "Normal (+1)"),
        ((((1, 2, 3),) * 30, ((1, 2),) * 30), "[1, 2, 3], [1, 2, 3], [1, 2, 3] +27 (+1)"),
    ],
)
def test_one_size_that_differs_is_a_range_and_other_shapes_are_counted(calls: Calls, text: str) -> None:
    assert shapes_of_calls(calls) == text


def test_of_tensors_in_an_object_beside_others_only_the_number_is_shown() -> None:
    assert shapes_of_calls((((1, 4), (2, 2), (2, 2)),), 2) == "[1, 4] +2"
    assert shapes_of_calls((((1, 4), (2, 2)), ((1, 5), (2, 2), (2, 2))), 1) == "[1, 4..5] +1"
    assert shapes_of_calls((((1, 4), (2, 2)), ((1, 4), (2, 2), (2, 2))), 1) == "[1, 4] +1"
    assert shapes_of_calls((((2, 2), (2, 2)),), 2) == "[2, 2], [2, 2]"
