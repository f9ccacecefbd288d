"""`index_loops`: loops of Python over the indices of a tensor."""

from __future__ import annotations

from typing import Any

import pytest
from advice_traces import Program
from handwritten import trace

import torchprof
from torchprof.advice.registry import NotTold
from torchprof.advice.rules.index_loops import index_loops
from torchprof.trace.schema import SCOPE_BACKWARD


def program(
    passes: int = 20,
    *,
    op: str = "aten::select",
    per_pass: int = 3,
    time: int = 2000,
    phase: int = 1,
    tensors: int = 1,
    backward: int = 0,
    lines: int = 1,
) -> torchprof.Trace:
    """Two steps of 10 ms: in each, a loop of so many passes takes a piece of a tensor and calls so many further ops.

    Args:
        time: of every op; they are as long apart.
        tensors: of which a piece is taken in turn.
        backward: how long the node of every op takes in backward.
        lines: how many lines the ops that take the piece are of, in turn.
    """
    made = Program(length=10_000_000)
    piece = made.tensor(999, shape=(8,))
    stacks: list[int] = []
    for step in made.steps:
        at = step["start"]
        rows: list[int] = []
        for number in range(passes):
            whole = made.tensor(1 + number % tensors, shape=(passes, 8))
            for name in (op, *["aten::mul"] * per_pass):
                row = made.op(name, at, time, [whole if name == op else piece], [piece], phase=phase, sequence_nr=len(made.ops))
                rows.append(row)
                stacks.append(number % lines)
                at += 2 * time
        for number in rows if backward else []:
            node = {"scope": SCOPE_BACKWARD, "sequence_nr": number, "forward_thread": 7}
            made.op("MulBackward0", at, backward, phase=3, **node)
            made.ops[-1]["flags"] |= 1
            stacks.append(0)
            at += backward
    more: dict[str, Any] = {"threads": [{"torch_id": 7}]}
    if lines > 1:
        more |= {"functions": [{"name": 0, "file": 0}], "stacks": [{"line": line} for line in range(lines)]}
        more |= {"stacks_of": {"op_stacks": stacks}}
    return made.trace(**more)


def test_a_loop_is_worth_its_passes_but_one() -> None:
    (found,) = index_loops(program())
    assert found.worth is not None
    pass_of_loop = 4 * 2 * 2000
    assert (found.worth.low, found.worth.high, found.worth.whole) == (0, 19 * pass_of_loop, 10_000_000)
    assert found.what == "Loops over indices of tensors take 320 us of a step: 20 passes a step"
    assert found.details == ("aten::select of [20, 8]: 20 passes a step, of 4 ops, 320 us",)


def test_what_is_differentiated_counts_too() -> None:
    (found,) = index_loops(program(backward=1000))
    assert found.worth is not None
    assert found.worth.high == 19 * (4 * 2 * 2000) + 19 * 4 * 1000


def test_a_loop_over_rows_takes_them_apart_once() -> None:
    made = Program(length=1_000_000)
    whole, row = made.tensor(1, shape=(20, 8)), made.tensor(1, shape=(8,))
    for step in made.steps:
        made.op("aten::unbind", step["start"], 1000, [whole], [row] * 20)
        for at in range(20):
            made.op("aten::sum", step["start"] + 2000 + at * 5000, 2000, [row], [made.tensor(50, shape=())])
    (found,) = index_loops(made.trace())
    assert found.worth is not None
    assert found.worth.high == 19 * 5000
    assert found.details == ("aten::sum of [8]: 20 passes a step, of 1 op, 100 us",)


def test_a_loop_that_ran_twice_is_left_with_two_passes() -> None:
    made = Program(length=1_000_000)
    whole, piece = made.tensor(1, shape=(20, 8)), made.tensor(2, shape=(8,))
    for step in made.steps:
        for begin in (0, 500_000):
            for at in range(20):
                made.op("aten::select", step["start"] + begin + 5000 * at, 2000, [whole], [piece])
            for at in range(30):
                made.op("aten::mul", step["start"] + begin + 200_000 + 5000 * at, 2000, [piece], [piece])
    (found,) = index_loops(made.trace())
    assert found.worth is not None
    assert found.worth.high == 2 * 19 * 5000
    assert found.details == ("aten::select of [20, 8]: 40 passes a step, of 1 op, 200 us",)


@pytest.mark.parametrize(
    "change",
    [
        {"passes": 15},  # as good as written out
        {"per_pass": 40},  # a layer
        {"time": 150_000},  # enough to do
        {"tensors": 20},  # a piece of another one in each pass
        {"lines": 2},  # two pieces of 10 each
        {"op": "aten::add"},
        {"time": 100},
        {"phase": 4},
        {"phase": 5},
    ],
)
def test_what_is_no_loop_over_indices(change: dict[str, Any]) -> None:
    assert not list(index_loops(program(**change)))


def test_an_aggregated_trace_does_not_tell() -> None:
    with pytest.raises(NotTold, match="aggregated"):
        list(index_loops(trace(facts={"aggregate": True})))
