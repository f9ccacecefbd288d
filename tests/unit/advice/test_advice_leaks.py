"""`leaks`: a place that holds more after every step, and one that does not."""

from __future__ import annotations

from typing import Any

import pytest
from handwritten import FORWARD, trace

import torchprof
from torchprof.advice.registry import NotTold
from torchprof.advice.rules.leaks import leaks
from torchprof.trace.schema import Use

STEP = 1000


def loop(steps: int, kept: int, freed_after: int | None = None) -> torchprof.Trace:
    """In every step ``aten::clone`` allocates so many bytes in line 12 of train.py; 1 MB were there before."""
    blocks: list[dict[str, Any]] = [{"start": -1, "bytes": 1_000_000, "uses": int(Use.PARAMETER), "device_index": -1}]
    for step in range(steps):
        at = step * STEP + 10
        end = at + freed_after if freed_after is not None else -1
        blocks.append({"start": at, "end": end, "bytes": kept, "op": step, "uses": int(Use.HELD_AFTER_CALL)})
    return trace(
        strings=["aten::clone", "train", "/home/me/train.py"],
        signatures=[{"name": 0}],
        ops=[{"start": step * STEP + 5, "end": step * STEP + 20, "flags": FORWARD} for step in range(steps)],
        allocations=blocks,
        functions=[{"name": 1, "file": 2, "first_line": 1}],
        stacks=[{"function": 0, "line": 12}],
        stacks_of={"op_stacks": [0] * steps, "call_stacks": [], "allocation_stacks": [-1, *[0] * steps]},
        steps=[{"start": step * STEP, "end": (step + 1) * STEP, "number": step, "forward": 1} for step in range(steps)],
    )


def test_a_list_that_grows() -> None:
    (found,) = leaks(loop(steps=6, kept=1000))
    assert found.lines == ("train.py:12",)
    assert found.details == ("aten::clone in train.py:12: 6 blocks of outputs, 5.9 KiB, 1000 B more a step",)
    assert found.worth is not None
    assert (found.worth.low, found.worth.high, found.worth.whole) == (0, 6000, 1_006_000)
    assert found.worth.measured
    assert ".detach()" in found.advice  # it may be a loss with its graph


def test_what_is_held_for_longer_than_a_step_is_no_leak() -> None:
    assert list(leaks(loop(steps=6, kept=1000, freed_after=STEP))) == []


def test_numbers_kept_for_a_plot_are_not_worth_a_word() -> None:
    assert list(leaks(loop(steps=6, kept=4))) == []


def test_with_three_steps_it_cannot_be_told() -> None:
    with pytest.raises(NotTold, match="too few steps"):
        list(leaks(loop(steps=3, kept=1000)))


def test_without_single_allocations_it_cannot_be_told() -> None:
    with pytest.raises(NotTold, match="the trace was recorded with aggregate=True"):
        list(leaks(trace(facts={"aggregate": True})))
    with pytest.raises(NotTold, match="memory=False"):
        list(leaks(trace(facts={"memory": False})))
