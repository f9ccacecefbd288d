"""Shapes that differ between the calls of a module are shown as such."""

from __future__ import annotations

import pytest

from torchprof.rendering.shapes import shapes_of_calls

Calls = tuple[tuple[tuple[int, ...], ...], ...]


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
        ((((1, 2, 3),) * 30, ((1, 2),) * 30), "[1, 2, 3], [1, 2, 3], [1, 2, 3] +27 (+1)"),
    ],
)
def test_one_size_that_differs_is_a_range_and_other_shapes_are_counted(calls: Calls, text: str) -> None:
    assert shapes_of_calls(calls) == text
