"""Cycles of a schedule: a trace for each, delivered when it ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from reading import op_names, rows_named
from torch import nn

import torchprof
from torchprof import _C

schedule = torchprof.schedule


def run(
    steps: int, plan: torchprof.Schedule, on_trace_ready: Callable[[torchprof.profile], object] | None = None, **options: Any
) -> torchprof.profile:
    """A loop, in whose step with number i are i + 1 calls of ``torch.ones``."""
    with torchprof.profile(schedule=plan, on_trace_ready=on_trace_ready, **options) as prof:
        for step in range(steps):
            for _ in range(step + 1):
                torch.ones(1)
            prof.step()
    return prof


def numbers(prof: torchprof.profile) -> list[list[int]]:
    """The steps of every trace."""
    return [trace.steps["number"].tolist() for trace in prof.traces]


@pytest.mark.parametrize("aggregate", [False, True])
def test_cycles_back_to_back_have_a_trace_each(aggregate: bool) -> None:
    prof = run(6, schedule(active=2, repeat=3), aggregate=aggregate)
    assert numbers(prof) == [[0, 1], [2, 3], [4, 5]]
    if aggregate:
        counts = [int(trace.op_totals["count"][0]) for trace in prof.traces]
    else:
        counts = [len(rows_named(trace, "aten::ones")) for trace in prof.traces]
    assert counts == [3, 7, 11]


@pytest.mark.parametrize(
    ("plan", "steps", "expected"),
    [
        (schedule(active=2, repeat=3), 20, [[0, 1], [2, 3], [4, 5]]),
        (schedule(active=1, repeat=3), 3, [[0], [1], [2]]),
        (schedule(active=2, repeat=0), 6, [[0, 1], [2, 3], [4, 5]]),
        (schedule(active=3, repeat=0), 8, [[0, 1, 2], [3, 4, 5], [6, 7]]),
        (schedule(warmup=1, active=1, repeat=2), 4, [[0, 1], [2, 3]]),
        (schedule(warmup=1, active=1, repeat=0), 5, [[0, 1], [2, 3]]),
        (schedule(wait=1, warmup=1, active=2, repeat=2), 8, [[1, 2, 3], [5, 6, 7]]),
        (schedule(wait=2, active=1, repeat=0), 7, [[2], [5]]),
    ],
)
def test_each_trace_has_the_steps_of_its_cycle(plan: torchprof.Schedule, steps: int, expected: list[list[int]]) -> None:
    """What is left of a cycle at the end has a trace too, if an active step of it ended."""
    assert numbers(run(steps, plan)) == expected


def test_a_trace_is_delivered_when_its_cycle_ends_and_nothing_is_recorded_meanwhile() -> None:
    happened: list[object] = []

    def ready(prof: torchprof.profile) -> None:
        assert not _C.is_recording()
        torch.zeros(1)
        happened.append(prof.trace.steps["number"].tolist())

    with torchprof.profile(schedule=schedule(active=2, repeat=0), on_trace_ready=ready) as prof:
        for step in range(5):
            prof.step()
            happened.append(step)
    assert happened == [0, [0, 1], 1, 2, [2, 3], 3, 4, [4]]
    assert not any("aten::zeros" in op_names(trace) for trace in prof.traces)


def test_without_cycles_the_trace_is_delivered_at_the_end() -> None:
    delivered: list[int] = []
    with torchprof.profile(on_trace_ready=lambda prof: delivered.append(len(prof.trace.steps))) as prof:
        for _ in range(3):
            prof.step()
        assert delivered == []
    assert delivered == [3]


def test_a_list_of_traces_may_be_cleared_when_cycles_go_on_for_ever() -> None:
    kept = []

    def ready(prof: torchprof.profile) -> None:
        kept.append(len(prof.traces))
        prof.traces.clear()

    run(6, schedule(active=1, repeat=0), ready)
    assert kept == [1] * 6


def test_after_an_exception_the_cycle_so_far_is_delivered_and_marked() -> None:
    delivered: list[list[int]] = []
    prof = torchprof.profile(
        schedule=schedule(active=3, repeat=0), on_trace_ready=lambda prof: delivered.append(prof.trace.steps["number"].tolist())
    )

    def loop() -> None:
        with prof:
            for step in range(9):
                torch.ones(1)
                if step == 5:
                    raise ZeroDivisionError
                prof.step()

    with pytest.raises(ZeroDivisionError):
        loop()
    assert delivered == [[0, 1, 2], [3, 4]]
    assert [trace.facts.get("ended_by") for trace in prof.traces] == [None, "ZeroDivisionError"]
    said = "ZeroDivisionError ended the recording; the step that it broke off is left out"
    for table in (torchprof.by_op(prof.trace), torchprof.by_step(prof.trace), torchprof.by_module(prof.trace)):
        assert said in str(table)
    assert "ended the recording" not in str(torchprof.by_op(prof.traces[0]))


def test_an_exception_in_the_first_step_of_a_cycle_has_a_trace_of_what_ran() -> None:
    prof = torchprof.profile(schedule=schedule(active=2, repeat=0))

    def loop() -> None:
        with prof:
            for step in range(4):
                if step == 2:
                    torch.zeros(1)
                    raise MemoryError
                prof.step()

    with pytest.raises(MemoryError):
        loop()
    assert numbers(prof) == [[0, 1], []]
    assert "aten::zeros" in op_names(prof.trace)


class Refused(Exception):
    pass


def test_what_on_trace_ready_raises_comes_out_of_step_and_the_next_cycle_is_recorded() -> None:
    def refuse(prof: torchprof.profile) -> None:
        raise Refused

    raised = []
    with torchprof.profile(schedule=schedule(active=2, repeat=3), on_trace_ready=refuse) as prof:
        for step in range(6):
            try:
                prof.step()
            except Refused:
                raised.append(step)
    assert raised == [1, 3, 5]
    assert numbers(prof) == [[0, 1], [2, 3], [4, 5]]


def test_what_on_trace_ready_raises_may_end_the_loop() -> None:
    called = []

    def refuse(prof: torchprof.profile) -> None:
        called.append(1)
        raise Refused

    before = _C.installed(nn.Module)
    prof = torchprof.profile(nn.Linear(2, 2), schedule=schedule(active=2, repeat=3), on_trace_ready=refuse)

    def loop() -> None:
        with prof:
            for _ in range(6):
                prof.step()

    with pytest.raises(Refused):
        loop()
    assert called == [1]
    assert numbers(prof) == [[0, 1]]
    assert _C.installed(nn.Module) == before


def test_the_programs_own_exception_goes_on_whatever_on_trace_ready_raises() -> None:
    def refuse(prof: torchprof.profile) -> None:
        raise Refused("no room")

    prof = torchprof.profile(on_trace_ready=refuse)
    with pytest.warns(RuntimeWarning, match="Refused: no room"), pytest.raises(ZeroDivisionError), prof:
        raise ZeroDivisionError
    assert prof.trace.facts["ended_by"] == "ZeroDivisionError"
    with pytest.raises(Refused), prof:
        pass
    assert not _C.is_recording()
