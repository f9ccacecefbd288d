"""FLOPs of files of torch.profiler: by the user's formulas, and what is said where they are unknown."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from kineto_files import Event, op, read
from torch.utils.flop_counter import flop_registry, register_flop_formula

import torchprof

REGISTER = "Formulas are registered with torch.utils.flop_counter.register_flop_formula"
SHAPES = "The file has no shapes of tensors: record with torch.profiler.profile(record_shapes=True) to have them"
VALUES = "The file has no values of arguments, such as strides: PyTorch writes them since 2023, with record_shapes=True"
COMPILED = "Compiled code is not seen op by op: without torch.compile it is counted"


@pytest.fixture
def squares() -> Iterator[Callable[[Callable[..., int]], None]]:
    """Registers a formula for ``torchprof_files::squares(x, power, weights)``."""
    library = torch.library.Library("torchprof_files", "FRAGMENT")
    library.define("squares(Tensor x, int power, Tensor[] weights) -> Tensor")
    packet = torch.ops.torchprof_files.squares

    def register(formula: Callable[..., int]) -> None:
        flop_registry.pop(packet, None)
        register_flop_formula(packet)(formula)

    yield register
    flop_registry.pop(packet, None)
    library._destroy()


def call(**more: Any) -> Event:
    """A call, with a matrix product inside of it."""
    given = {
        "dims": [[4, 8], [], [[8, 2], [2, 3]]],
        "types": ["float", "Scalar", "TensorList"],
        "values": ["", "3", ""],
        **more,
    }
    return op("torchprof_files::squares", 0, 20, **given)


INSIDE = op("aten::mm", 5, 5, dims=[[4, 8], [8, 2]], types=["float", "float"], values=["", ""])


def flops(trace: torchprof.Trace) -> dict[str, Any]:
    return {row["name"]: row["flops"] for row in torchprof.by_op(trace).rows}


def test_a_formula_of_the_users_own_counts_ops_of_a_file(tmp_path: Path, squares: Any) -> None:
    before = flops(read(tmp_path, call()))
    squares(lambda x, power, weights, out_shape=None: power * x[0] * x[1] * len(weights) + weights[1][1])
    trace = read(tmp_path, call())
    assert (before["torchprof_files::squares"], flops(trace)["torchprof_files::squares"]) == (None, 3 * 32 * 2 + 3)
    assert REGISTER not in str(torchprof.by_op(trace))


def test_it_counts_for_what_runs_inside(tmp_path: Path, squares: Any) -> None:
    assert flops(read(tmp_path, call(), INSIDE))["aten::mm"] == 2 * 4 * 8 * 2
    squares(lambda x, power, weights, out_shape=None: 1000)
    trace = read(tmp_path, call(), INSIDE)
    assert sum(torchprof.by_op(trace).rows[row]["flops"] or 0 for row in range(2)) == 1000


def test_a_formula_for_an_op_of_pytorchs_own_replaces_the_one_that_is_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(flop_registry, torch.ops.aten.mm, lambda a, b, out_val=None: 7 * a.shape[0])
    assert flops(read(tmp_path, INSIDE))["aten::mm"] == 28


def test_a_formula_that_needs_what_a_file_does_not_have_leaves_it_unknown_and_says_why(tmp_path: Path, squares: Any) -> None:
    squares(lambda x, power, weights, out_shape: out_shape[0] * x[1])
    trace = read(tmp_path, call())
    assert flops(trace)["torchprof_files::squares"] is None
    assert any("the FLOP formula of torchprof_files::squares failed (TypeError" in note for note in trace.facts["notes"])
    squares(lambda x, power, weights, out_shape=None: power)
    assert flops(read(tmp_path, call(values=None)))["torchprof_files::squares"] is None  # no values: the power is unknown
    assert flops(read(tmp_path, op("torchprof_files::squares", 0, 20)))["torchprof_files::squares"] is None


@pytest.mark.parametrize("wrong", [2**70, -5])
def test_flops_that_cannot_be_are_unknown_and_said(tmp_path: Path, squares: Any, wrong: int) -> None:
    squares(lambda x, power, weights, out_shape=None: wrong)
    trace = read(tmp_path, call())
    assert flops(trace)["torchprof_files::squares"] is None
    assert any(f"{wrong} FLOPs cannot be" in note for note in trace.facts["notes"])


@pytest.mark.parametrize(
    ("events", "says", "says_not"),
    [
        ([op("aten::mm", 0, 5)], [SHAPES], [REGISTER, VALUES, COMPILED]),
        ([op("mylib::op", 0, 5)], [SHAPES, REGISTER], [VALUES, COMPILED]),
        ([op("mylib::op", 0, 5, dims=[[4]], types=["float"], values=[""])], [REGISTER], [SHAPES, VALUES, COMPILED]),
        (
            [op("aten::convolution", 0, 5, dims=[[1, 3, 8, 8], [4, 3, 3, 3], []], types=["float", "float", ""])],
            [VALUES],
            [SHAPES, REGISTER, COMPILED],
        ),
        (
            [op("aten::cudnn_convolution_backward_input", 0, 5, dims=[[1, 3, 8, 8], []], types=["float", "Int"])],
            [VALUES],
            [SHAPES, REGISTER, COMPILED],
        ),
        (
            [op("Torch-Compiled Region: 0/0", 0, 5), {**INSIDE, "ts": 10}],
            [COMPILED],
            [SHAPES, REGISTER, VALUES],
        ),
    ],
    ids=["no shapes", "no shapes, no formula", "no formula", "no values", "an op of 2021", "compiled"],
)
def test_where_flops_are_unknown_the_way_out_is_that_of_the_reason(
    tmp_path: Path, events: list[Event], says: list[str], says_not: list[str]
) -> None:
    text = str(torchprof.by_op(read(tmp_path, *events)))
    assert "Unknown FLOPs (? and >=): of " in text
    assert [line for line in says if line not in text] == []
    assert [line for line in says_not if line in text] == []


def test_without_steps_the_schedule_of_torch_profiler_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        torchprof.ArgumentError, match=r"no steps: record with schedule= of torch\.profiler\.profile.*prof\.step"
    ):
        torchprof.by_step(read(tmp_path, INSIDE))
