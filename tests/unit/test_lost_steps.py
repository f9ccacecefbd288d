"""Steps of which rows were lost: what these would tell is unknown."""

from __future__ import annotations

import pytest
import torch
from handwritten import trace

from torchprof import by_step, profile
from torchprof.trace.trace import Trace


def in_three_steps(**losses: int) -> Trace:
    """Three steps of 10 ns. The last op began in the second, the last block and the last call in the first."""
    steps = [{"start": 10 * step, "end": 10 * step + 10, "number": step, "forward": 3} for step in range(3)]
    return trace(
        strings=["aten::f", "aten::g"],
        ops=[
            {"name": 0, "start": 1, "end": 2},
            {"name": 0, "start": 12, "end": 13},
            {"name": 1, "start": 25, "end": 26, "thread": 1},
        ],
        module_calls=[{"start": 1, "end": 2}],
        modules=[{"address": 100}],
        allocations=[{"start": 1, "bytes": 8}, {"start": -1, "bytes": 4}],
        steps=steps,
        facts={"losses": losses},
    )


@pytest.mark.parametrize(
    ("lost", "forward", "ops", "held"),
    [
        ({}, [3, 3, 3], [1, 1, 1], [12, 12, 12]),
        ({"ops": 5}, [3, None, None], [1, None, None], [12, 12, 12]),
        ({"module_calls": 5}, [None, None, None], [1, 1, 1], [12, 12, 12]),
        ({"allocations": 5}, [3, 3, 3], [1, 1, 1], [None, None, None]),
        ({"operands": 5, "ops": 0}, [3, 3, 3], [1, 1, 1], [12, 12, 12]),
    ],
)
def test_what_lost_rows_would_tell_of_a_step_is_unknown(
    lost: dict[str, int], forward: list[int | None], ops: list[int | None], held: list[int | None]
) -> None:
    rows = by_step(in_three_steps(**lost)).rows
    assert [row["forward"] for row in rows] == forward
    assert [row["other"] for row in rows] == [None if each is None else 10 - each for each in forward]
    assert [row["ops"] for row in rows] == ops
    assert [row["held"] for row in rows] == [row["peak"] for row in rows] == held
    assert [row["time"] for row in rows] == [10, 10, 10]


def test_unknown_figures_of_steps_are_printed_as_question_marks() -> None:
    lines = str(by_step(in_three_steps(ops=5)).select("time", "forward", "held")).splitlines()
    assert [line.split()[1:] for line in lines[3:6]] == ["0.01 us 0.00 us 12 B".split(), *["0.01 us ? 12 B".split()] * 2]


def test_of_a_recording_that_outgrew_its_budget_only_whole_steps_are_known() -> None:
    layer = torch.nn.Linear(8, 2)
    with profile(layer, budget=1 << 20) as prof:
        for _ in range(600):
            layer(torch.zeros(4, 8)).sum().backward()
            prof.step()
    rows = by_step(prof.trace).rows
    assert prof.trace.losses["ops"]
    counts = [row["ops"] for row in rows]
    known = [count for count in counts[1:] if count is not None]
    assert len(known) > 10
    assert counts[1:] == known + [None] * (599 - len(known))
    assert len(set(known)) == 1  # every step that is known has all of its ops
    assert [row["backward"] is None for row in rows] == [count is None for count in counts]
