"""Inputs made from sizes, and the caller's own data."""

from __future__ import annotations

from collections import namedtuple
from typing import Any

import pytest
import torch
from torch import nn

from torchprof import ArgumentError
from torchprof.record.inputs import Inputs, make_inputs


def made(input_size: Any = None, **options: Any) -> Inputs | None:
    defaults = {"batch_size": None, "input_data": None, "dtypes": None, "device": None}
    return make_inputs(options.pop("model", nn.Identity()), input_size, **{**defaults, **options})


def shapes(inputs: Inputs | None) -> list[tuple[int, ...]]:
    assert inputs is not None
    return [tuple(tensor.shape) for tensor in inputs.tensors()]


@pytest.mark.parametrize(
    ("size", "batch", "expected"),
    [
        ((3, 4), None, [(3, 4)]),
        ([3, 4], None, [(3, 4)]),
        (torch.Size([3, 4]), None, [(3, 4)]),
        ((3, 4), 5, [(5, 3, 4)]),
        ((3, 4), -1, [(2, 3, 4)]),
        ([(3,), (4, 5)], 2, [(2, 3), (2, 4, 5)]),
        ([(3,)], None, [(3,)]),
        ((), None, [()]),
        ((), 2, [(2,)]),
        ((0, 3), None, [(0, 3)]),
    ],
)
def test_sizes_become_tensors_of_these_shapes(size: Any, batch: int | None, expected: list[tuple[int, ...]]) -> None:
    assert shapes(made(size, batch_size=batch)) == expected


def test_nothing_given_means_nothing_to_run() -> None:
    assert made() is None


def test_floats_are_random_and_integers_are_valid_indices() -> None:
    inputs = made([(2, 3), (2,)], dtypes=[torch.float64, torch.long])
    assert inputs is not None
    assert inputs.args[0].dtype == torch.float64
    assert 0 <= inputs.args[0].min() < inputs.args[0].max() < 1
    assert inputs.args[1].tolist() == [0, 0]


@pytest.mark.parametrize("name", ["float16", "bfloat16", "complex64", "bool", "uint8", "float8_e4m3fn"])
def test_inputs_of_every_dtype_can_be_made(name: str) -> None:
    dtype = getattr(torch, name)
    inputs = made((2, 3), dtypes=dtype)
    assert inputs is not None
    assert inputs.args[0].dtype == dtype


def test_inputs_are_made_where_the_model_is() -> None:
    inputs = made((2, 3), model=nn.Linear(3, 3, device="meta"))
    assert inputs is not None
    assert inputs.args[0].is_meta


def test_data_is_moved_only_when_a_device_is_named() -> None:
    x = torch.ones(2)
    kept, moved = made(input_data=[x]), made(input_data=[x], device="meta")
    assert kept is not None
    assert kept.args[0] is x
    assert moved is not None
    assert moved.args[0].is_meta


def test_data_inside_containers_is_moved_and_containers_keep_their_type() -> None:
    Pair = namedtuple("Pair", "a b")
    inputs = made(input_data={"x": [torch.ones(1), {"y": Pair(torch.ones(2), "text")}]}, device="meta")
    assert inputs is not None
    pair = inputs.kwargs["x"][1]["y"]
    assert isinstance(pair, Pair)
    assert (pair.a.is_meta, pair.b) == (True, "text")


def test_a_device_that_is_not_here_is_named() -> None:
    with pytest.raises(ArgumentError, match="xpu"):
        made((2, 3), device="xpu")


def test_a_tensor_among_the_sizes_points_to_its_shape() -> None:
    with pytest.raises(ArgumentError, match=r"tensor\.shape"):
        made((torch.ones(2), 3))
