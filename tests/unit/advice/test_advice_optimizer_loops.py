"""`optimizer_loops`: an optimizer that calls ops for every parameter by itself, where it could update them at once."""

from __future__ import annotations

from dataclasses import replace

import pytest
from advice_traces import Program
from handwritten import trace

import torchprof
from torchprof.advice.registry import NotTold
from torchprof.advice.rules.optimizer_loops import optimizer_loops
from torchprof.trace.schema import SCOPE_USER, Phase, Use

OPTIMIZER = int(Phase.OPTIMIZER)


def updates(
    optimizer: str = "AdamW",
    *,
    op: str = "aten::add_",
    parameters: int = 30,
    each: int = 2,
    time: int = 2000,
    device: int = 0,
    shape: tuple[int, ...] = (4,),
) -> torchprof.Trace:
    """Two steps of 1 ms: an optimizer calls so many ops for each parameter, of so many nanoseconds, 1,000 apart."""
    program = Program()
    for step in program.steps:
        begin, count = step["start"] + 1000, parameters * each
        around = program.op(f"Optimizer.step#{optimizer}.step", begin, count * (time + 1000), phase=OPTIMIZER, scope=SCOPE_USER)
        for at in range(count):
            tensor = program.tensor(1 + at // each, shape=shape, device=device)
            start = begin + at * (time + 1000)
            outer = program.op(op, start, time, [tensor], [tensor], parent=around, phase=OPTIMIZER)
            program.op("aten::mul_", start, time // 2, [tensor], [tensor], parent=outer, phase=OPTIMIZER)
    blocks = [{"start": -1, "address": 1 + at, "bytes": 4, "uses": Use.PARAMETER} for at in range(parameters)]
    return program.trace(allocations=blocks)


def test_on_the_cpu_adamw_could_be_fused() -> None:
    (found,) = optimizer_loops(updates())
    assert found.worth is not None
    assert (found.worth.low, found.worth.high, found.worth.whole) == (0, 60 * 3000, 1_000_000)
    assert found.what == "AdamW updates its parameters one by one: 60 ops a step for 30 parameters, in 180 us"
    assert found.advice.startswith("Make it with AdamW(..., fused=True)")
    assert found.details == ("aten::add_, 60 a step, 120 us",)  # what runs inside is theirs


@pytest.mark.parametrize(
    ("optimizer", "words"), [("SGD", "fused=True"), ("RMSprop", "foreach=True"), ("MyOptimizer", "torch._foreach_add_")]
)
def test_on_a_device_there_is_more_to_gain(optimizer: str, words: str) -> None:
    (found,) = optimizer_loops(updates(optimizer, device=1))
    assert words in found.advice


@pytest.mark.parametrize("optimizer", ["RMSprop", "NAdam", "MyOptimizer"])
def test_on_the_cpu_nothing_is_known_to_be_faster_for_others(optimizer: str) -> None:
    assert not list(optimizer_loops(updates(optimizer)))


@pytest.mark.parametrize("op", ["aten::_foreach_add_", "aten::_fused_adamw_"])
def test_ops_for_many_parameters_are_no_loop(op: str) -> None:
    assert not list(optimizer_loops(updates(op=op)))


def test_a_few_parameters_are_no_loop_and_little_time_is_not_worth_a_word() -> None:
    assert not list(optimizer_loops(updates(parameters=20)))
    assert not list(optimizer_loops(updates(parameters=26, each=1, time=100)))


def test_counters_of_steps_are_no_parameters() -> None:
    """A fused kernel of another library is no op, and beside it the optimizer counts its steps."""
    assert not list(optimizer_loops(updates("FusedAdam", shape=(), device=1)))


def test_parameters_that_are_not_known_are_not_counted() -> None:
    known = updates()
    (found,) = optimizer_loops(replace(known, allocations=known.allocations[:0]))
    assert found.what == "AdamW updates its parameters one by one: 60 ops a step, in 180 us"


def test_an_aggregated_trace_knows_the_sums_of_one_optimizer() -> None:
    step, add, copy, foreach = range(4)
    totals = {"module": -1, "stack": -1, "phase": OPTIMIZER}
    rows = [
        {**totals, "signature": step, "count": 2, "time": 200},
        {**totals, "signature": add, "count": 120, "time": 100},
        {**totals, "signature": copy, "count": 120, "time": 10},
    ]
    names = ["Optimizer.step#SGD.step", "aten::add_", "aten::copy_", "aten::_foreach_add_"]

    def aggregated(totals: list[dict[str, int]]) -> torchprof.Trace:
        return trace(
            strings=names,
            signatures=[{"name": at} for at in range(4)],
            op_totals=totals,
            steps=[{"start": at, "end": at + 1000} for at in (0, 1000)],
            facts={"aggregate": True},
        )

    (found,) = optimizer_loops(aggregated(rows))
    assert found.worth is not None
    assert (found.worth.high, found.worth.whole) == (100, 1000)
    assert found.what == "SGD updates its parameters one by one: 60 ops a step, in 0.10 us"
    assert not list(optimizer_loops(aggregated([*rows, {**totals, "signature": foreach, "count": 2}])))


def test_without_an_optimizer_nothing_is_said_and_without_ops_it_is_not_told() -> None:
    program = Program()
    program.op("aten::mm", 0, 10)
    assert not list(optimizer_loops(program.trace()))
    with pytest.raises(NotTold, match="no ops"):
        list(optimizer_loops(trace(facts={"duration_ns": 5})))
