"""`copies`: a copy of a tensor that is only copied back."""

from __future__ import annotations

from typing import Any

import pytest
from advice_traces import Program
from handwritten import trace

import torchprof
from torchprof.advice.registry import NotTold
from torchprof.advice.rules.copies import copies

FLOAT16 = 5


def program(
    op: str = "aten::_to_copy",
    *,
    between: str = "aten::view",
    dtype: int = FLOAT16,
    back: int = 6,
    devices: tuple[int, int] = (0, 0),
    phase: int = 1,
    **facts: Any,
) -> torchprof.Trace:
    """Two steps of 1 ms: a tensor is made, copied for 20 us, something is done with the copy, which is copied for 30 us."""
    made = Program()
    original = made.tensor(1, device=devices[0])
    copy, copied_back = made.tensor(2, dtype, device=devices[1]), made.tensor(3, back, device=devices[0])
    for step in made.steps:
        at = step["start"]
        made.op("aten::mm", at, 10_000, [], [original], phase=phase)
        first = made.op("aten::to", at + 10_000, 20_000, [original], [copy], phase=phase)
        made.op(op, at + 10_000, 20_000, [original], [copy], parent=first, phase=phase)
        made.op(between, at + 30_000, 1000, [copy], [copy], phase=phase)
        made.op(op, at + 40_000, 30_000, [copy], [copied_back], phase=phase)
        made.op("aten::mm", at + 80_000, 10_000, [copied_back], [original], phase=phase)
    return made.trace(facts={"duration_ns": 2_000_000, **facts})


def test_a_dtype_there_and_back() -> None:
    (found,) = copies(program())
    assert found.worth is not None
    assert (found.worth.low, found.worth.high, found.worth.whole) == (20_000, 50_000, 1_000_000)
    assert found.what == "Tensors are copied to another device, dtype or layout only to be copied back: 1 time a step"
    assert found.details == ("float32 to float16 and back, 1 a step, 50.0 us",)


def test_a_device_there_and_back_may_gain_nothing_where_the_device_has_other_work() -> None:
    (found,) = copies(program(devices=(1, 0), dtype=6))
    assert found.worth is not None
    assert (found.worth.low, found.worth.high) == (0, 50_000)
    assert found.details == ("cuda:0 to cpu and back, 1 a step, 50.0 us",)


def test_a_layout_there_and_back() -> None:
    (found,) = copies(program("aten::clone", dtype=6, between="aten::transpose"))
    assert found.details == ("float32 to another layout and back, 1 a step, 50.0 us",)


@pytest.mark.parametrize("between", ["aten::mm", "aten::mul_", "aten::empty"])
def test_a_copy_that_something_else_reads_or_writes_was_needed(between: str) -> None:
    assert not list(copies(program(between=between)))


def test_to_a_third_dtype_nothing_is_undone() -> None:
    assert not list(copies(program(back=4)))


@pytest.mark.parametrize("phase", [4, 5])
def test_what_an_optimizer_or_a_data_loader_copies_is_their_own(phase: int) -> None:
    assert not list(copies(program(phase=phase)))


def test_files_without_addresses_and_recordings_without_shapes_do_not_tell() -> None:
    with pytest.raises(NotTold, match="addresses"):
        list(copies(program(addresses=False)))
    with pytest.raises(NotTold, match="shapes=True"):
        list(copies(trace(strings=["aten::clone"], ops=[{"name": 0}], facts={"duration_ns": 5})))
