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
    optimizer: str = "AdamW", *, op: str = "aten::add_", parameters: int = 30, each: int = 2, time: int = 2000, device: int = 0
) -> torchprof.Trace:
    """Two steps of 1 ms: an optimizer calls so many ops for each parameter, of so many nanoseconds, 1,000 apart."""
    program = Program()
    for step in program.steps:
        begin, count = step["start"] + 1000, parameters * each
        around = program.op(f"Optimizer.step#{optimizer}.step", begin, count * (time + 1000), phase=OPTIMIZER, scope=SCOPE_USER)
        for at in range(count):
            tensor = program.tensor(1 + at // each, device=device)
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


def test_an_optimizer_that_does_something_else_most_of_its_time_is_not_meant() -> None:
    assert not list(optimizer_loops(updates(time=300)))  # 300 of 1,300 ns: the rest is no op


def test_parameters_that_are_not_known_are_not_counted() -> None:
    known = updates()
    (found,) = optimizer_loops(replace(known, allocations=known.allocations[:0]))
    assert found.what == "AdamW updates its parameters one by one: 60 ops a step, in 180 us"


def test_an_aggregated_trace_does_not_tell_and_without_optimizer_nothing_is_said() -> None:
    with pytest.raises(NotTold, match="aggregated"):
        list(optimizer_loops(trace(facts={"aggregate": True})))
    program = Program()
    program.op("aten::mm", 0, 10)
    assert not list(optimizer_loops(program.trace()))
