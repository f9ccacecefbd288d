"""`frozen_graph`: graphs of autograd that no parameter needs."""

from __future__ import annotations

from typing import Any

import pytest
from handwritten import FORWARD, module, parameter, trace

import torchprof
from torchprof.advice.registry import NotTold
from torchprof.advice.rules.frozen_graph import frozen_graph
from torchprof.trace.model import Model
from torchprof.trace.schema import OP_ATTRIBUTED, Phase, Use

BACKWARD = (int(Phase.BACKWARD) << 4) | OP_ATTRIBUTED
NODE = "autograd::engine::evaluate_function: MmBackward0"


def net(*trainable: bool, training: bool = True) -> Model:
    """Layers ``0``, ``1``, ..., trainable or not."""
    layers = [
        module(str(row), "Linear", 0, 101 + row, parameters=(parameter("weight", 4, 4, trainable=each),))
        for row, each in enumerate(trainable)
    ]
    return Model((module("", "Net", -1, 100, training=training), *layers))


def fine_tuned(*trainable: bool, backward: int = 100, **facts: Any) -> torchprof.Trace:
    """Each layer runs, creates a node, and has so many ns of backward, in a step of 1,000 ns."""
    count = len(trainable)
    calls: list[dict[str, Any]] = [{"start": 0, "end": 10 * count + 10}]
    calls += [{"start": 10 * row + 1, "end": 10 * row + 9, "parent": 0, "module": row + 1} for row in range(count)]
    ops: list[dict[str, Any]] = [
        {"name": 0, "start": 10 * row + 2, "end": 10 * row + 8, "module_call": row + 1, "flags": FORWARD, "sequence_nr": row}
        for row in range(count)
    ]
    for row in reversed(range(count)):
        begin = 100 + (count - row) * backward
        node = {"start": begin, "end": begin + backward, "sequence_nr": row, "forward_thread": 1}
        ops.append({"name": 1, **node, "module_call": row + 1, "flags": BACKWARD})
    return trace(
        model=net(*trainable),
        strings=["aten::mm", NODE, "Linear"],
        modules=[{"address": 100 + row, "type": 2} for row in range(count + 1)],
        module_calls=calls,
        ops=ops,
        threads=[{"torch_id": 1}],
        steps=[{"start": 0, "end": 1000, "forward": 100}],
        facts=facts,
    )


def test_frozen_layers_before_what_is_trained() -> None:
    (found,) = frozen_graph(fine_tuned(False, False, True))
    assert found.details == ("0", "1")
    assert found.worth is not None
    assert (found.worth.low, found.worth.high, found.worth.whole) == (200, 200, 1000)
    assert found.worth.measured
    assert "2 frozen modules" in found.what


@pytest.mark.parametrize("trainable", [(True, False, True), (True, True), (False, False)])
def test_graphs_that_are_needed(trainable: tuple[bool, ...]) -> None:
    """For what is trained before; and where nothing is, for the gradient of the input."""
    assert list(frozen_graph(fine_tuned(*trainable))) == []


def test_a_backward_that_takes_next_to_nothing() -> None:
    assert list(frozen_graph(fine_tuned(False, True, backward=10))) == []


def passes(*runs: bool, training: bool = True) -> torchprof.Trace:
    """A layer is called once for each, builds a graph that keeps 1 KiB, and backward runs it or not. 3 KiB are parameters."""
    calls, ops, blocks = [], [], [{"start": -1, "bytes": 3 * 1024, "uses": int(Use.PARAMETER)}]
    for row, is_run in enumerate(runs):
        at = 100 * row
        calls.append({"start": at, "end": at + 20, "module": 1})
        ops.append({"name": 0, "start": at + 1, "end": at + 9, "module_call": row, "flags": FORWARD, "sequence_nr": row})
        kept = int(Use.HELD_AFTER_CALL | Use.READ_BY_BACKWARD)
        blocks.append({"start": at + 2, "bytes": 1024, "op": len(ops) - 1, "module_call": row, "module": 1, "uses": kept})
        if is_run:
            node = {"start": at + 50, "end": at + 60, "sequence_nr": row, "forward_thread": 1, "module_call": row}
            ops.append({"name": 1, **node, "flags": BACKWARD})
    return trace(
        model=net(True, training=training),
        strings=["aten::mm", NODE, "Linear"],
        modules=[{"address": 100, "type": 2}, {"address": 101, "type": 2}],
        module_calls=calls,
        ops=ops,
        allocations=blocks,
        threads=[{"torch_id": 1}],
        steps=[{"start": 0, "end": 1000, "forward": 100}],
    )


def test_a_call_whose_graph_is_never_run() -> None:
    (found,) = frozen_graph(passes(True, False, True))
    assert found.module == "0"
    assert "1 call in a step, of 0.02 us" in found.what
    assert found.worth is not None
    assert (found.worth.low, found.worth.high, found.worth.whole) == (1024, 1024, 6 * 1024)


@pytest.mark.parametrize(
    "runs", [(True, True), (True, False), (False,)], ids=["all", "the last may be run later", "only forward"]
)
def test_calls_whose_graph_is_run_or_may_be(runs: tuple[bool, ...]) -> None:
    assert list(frozen_graph(passes(*runs))) == []


def test_inference_of_a_model_in_evaluation() -> None:
    (found,) = frozen_graph(passes(False, False, training=False))
    assert "inference_mode" in found.advice
    assert "2 calls in a step" in found.what


@pytest.mark.parametrize(
    ("program", "why"),
    [
        (trace(facts={"aggregate": True}), "aggregated"),
        (trace(), "no ops"),
        (fine_tuned(False, True, compiled=True), "compiled"),
    ],
)
def test_where_it_cannot_be_told(program: torchprof.Trace, why: str) -> None:
    with pytest.raises(NotTold, match=why):
        list(frozen_graph(program))
