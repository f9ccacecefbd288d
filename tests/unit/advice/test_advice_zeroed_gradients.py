"""`zeroed_gradients`: ops that zero gradients, and the additions of backward to the zeros."""

from __future__ import annotations

import pytest
from advice_traces import Program
from handwritten import trace

import torchprof
from torchprof.advice.registry import NotTold
from torchprof.advice.rules.zeroed_gradients import zeroed_gradients
from torchprof.trace.schema import SCOPE_BACKWARD, SCOPE_USER, Use


def program(
    *, passes: int = 1, foreach: bool = False, by: str = "optimizer", time: int = 10_000, device: int = 0
) -> torchprof.Trace:
    """Two steps of 1 ms with 4 gradients: so many backward passes add to each, and it is zeroed; each op takes so long."""
    made = Program()
    gradients = [made.tensor(10 + at, device=device) for at in range(4)]
    for step in made.steps:
        at = step["start"] + 1000
        for gradient in gradients * passes:
            node = made.op("torch::autograd::AccumulateGrad", at, 2 * time, phase=3, scope=SCOPE_BACKWARD)
            made.op("aten::add_", at, time, [gradient], [gradient], parent=node, phase=3)
            at += 2 * time
        around = -1
        if by == "optimizer":
            around = made.op("Optimizer.zero_grad#SGD.zero_grad", at, 5 * time, phase=4, scope=SCOPE_USER)
        if foreach:
            made.op("aten::_foreach_zero_", at, 4 * time, gradients, parent=around, phase=4)
        for row, gradient in enumerate([] if foreach else gradients):
            made.op("aten::zero_", at + row * time, time, [gradient], [gradient], parent=around, phase=4)
    use = Use.GRADIENT if by != "nobody" else Use.READ_BY_FORWARD
    return made.trace(allocations=[{"start": -1, "address": 10 + at, "bytes": 4, "uses": use} for at in range(4)])


@pytest.mark.parametrize("by", ["optimizer", "module"])
@pytest.mark.parametrize("foreach", [False, True])
def test_zeroing_and_adding_to_the_zeros_go_away(by: str, foreach: bool) -> None:
    (found,) = zeroed_gradients(program(by=by, foreach=foreach))
    assert found.worth is not None
    assert (found.worth.low, found.worth.high, found.worth.whole) == (80_000, 80_000, 1_000_000)
    assert found.what == "Gradients are zeroed instead of dropped, and backward adds to the zeros: 4 a step"
    assert found.details == ("zeroing: 40.0 us of the host", "adding to the zeros: 40.0 us of the host")


def test_of_several_backward_passes_only_the_first_adds_to_zeros() -> None:
    (found,) = zeroed_gradients(program(passes=3))
    assert found.worth is not None
    assert found.worth.high == 40_000 + 120_000 // 3


def test_with_a_device_it_may_gain_nothing() -> None:
    (found,) = zeroed_gradients(program(device=1))
    assert found.worth is not None
    assert (found.worth.low, found.worth.high) == (0, 80_000)


def test_other_tensors_may_be_zeroed_and_gradients_that_are_dropped_are_not() -> None:
    assert not list(zeroed_gradients(program(by="nobody")))
    assert not list(zeroed_gradients(trace(strings=["aten::mm"], ops=[{"name": 0, "end": 9}], steps=[{"end": 10}])))


def test_zeros_that_backward_itself_begins_with_are_none() -> None:
    """The gradient of an embedding is zeros to which rows are added."""
    made = Program()
    gradient = made.tensor(10)
    for step in made.steps:
        node = made.op("EmbeddingBackward0", step["start"], 500_000, phase=3, scope=SCOPE_BACKWARD)
        zeros = made.op("aten::zeros", step["start"], 100_000, [], [gradient], parent=node, phase=3)
        made.op("aten::zero_", step["start"], 100_000, [gradient], [gradient], parent=zeros, phase=3)
    assert not list(zeroed_gradients(made.trace(allocations=[{"start": -1, "address": 10, "uses": Use.GRADIENT}])))


def test_little_time_is_not_worth_a_word_and_an_aggregated_trace_does_not_tell() -> None:
    assert not list(zeroed_gradients(program(time=1000)))
    with pytest.raises(NotTold, match="aggregated"):
        list(zeroed_gradients(trace(facts={"aggregate": True})))
