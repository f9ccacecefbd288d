"""`repeated_casts`: conversions of tensors that stay, where nothing has changed since the last."""

from __future__ import annotations

import pytest
from advice_traces import Program
from handwritten import module, parameter, trace

import torchprof
from torchprof.advice.registry import NotTold
from torchprof.advice.rules.repeated_casts import repeated_casts
from torchprof.trace.model import Model
from torchprof.trace.schema import Phase, Use

FLOAT16 = 5
KEPT = Use.PARAMETER | Use.READ_BY_FORWARD


def program(
    each: int = 1,
    *,
    uses: int = KEPT,
    writes: str = "",
    fresh: bool = False,
    phase: int = 1,
    time: int = 50_000,
    backward: bool = False,
    trainable: bool = True,
) -> torchprof.Trace:
    """Two steps of 1 ms: a tensor is converted so often in each, and may be written to at the end."""
    made = Program()
    tensor, converted = made.tensor(1), made.tensor(2, FLOAT16)
    for step in made.steps:
        at = step["start"] + 1000
        for _ in range(each):
            made.op("aten::_to_copy", at, time, [tensor], [converted], phase=phase)
            at += time
        if writes:
            made.op(writes, at, 1000, [tensor], [] if "_foreach_" in writes else [tensor])
        if backward:
            made.op("MmBackward0", at + 1000, 1000, phase=int(Phase.BACKWARD))
    block = {"address": 1, "bytes": 4, "uses": uses, "module": 0}
    blocks = (
        [{**block, "start": 500 + step["start"], "end": step["end"]} for step in made.steps]
        if fresh
        else [{**block, "start": -1}]
    )
    model = Model((module("", "Net", -1, 100, parameters=(parameter("weight", 4, trainable=trainable),)),))
    return made.trace(allocations=blocks, model=model, modules=[{"address": 100}])


def test_a_tensor_that_stays_the_same_is_converted_once_too_often_in_each_step() -> None:
    (found,) = repeated_casts(program())
    assert found.worth is not None
    assert (found.worth.low, found.worth.high, found.worth.whole) == (50_000, 50_000, 1_000_000)
    assert found.what == "Tensors that stay the same are converted again: 1 time a step"
    assert found.details == ("float32 to float16, 1 a step, 50.0 us",)


@pytest.mark.parametrize(
    "change", [{"writes": "aten::add_"}, {"writes": "aten::_foreach_add_"}, {"uses": KEPT | Use.READ_BY_OPTIMIZER}]
)
def test_one_that_changes_in_each_step_needs_one_conversion_in_each(change: dict[str, int]) -> None:
    assert not list(repeated_casts(program(1, **change)))
    (found,) = repeated_casts(program(4, **change))
    assert found.worth is not None
    assert found.worth.high == 3 * 50_000
    assert found.what == "Tensors that change once in a step are converted again: 3 times a step"


def test_a_weight_changes_where_backward_runs_also_if_its_update_was_not_recorded() -> None:
    assert not list(repeated_casts(program(backward=True)))
    assert list(repeated_casts(program(backward=True, trainable=False)))


def test_tensors_that_come_and_go_are_others_and_recomputation_repeats_on_purpose() -> None:
    assert not list(repeated_casts(program(fresh=True)))
    assert not list(repeated_casts(program(phase=int(Phase.RECOMPUTATION))))
    assert not list(repeated_casts(program(phase=int(Phase.OPTIMIZER))))


def test_little_time_is_not_worth_a_word() -> None:
    assert not list(repeated_casts(program(time=10_000)))


def test_without_memory_tensors_are_not_told_apart() -> None:
    with pytest.raises(NotTold, match="memory"):
        list(repeated_casts(trace(strings=["aten::mm"], operands=[0], ops=[{"name": 0}], facts={"memory": False})))
