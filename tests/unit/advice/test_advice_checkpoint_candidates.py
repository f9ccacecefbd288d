"""`checkpoint_candidates`: modules whose activations a checkpoint would drop, the most bytes for their time first."""

from __future__ import annotations

from typing import Any

import pytest
from handwritten import FORWARD, module, trace

import torchprof
from torchprof.advice.registry import NotTold
from torchprof.advice.rules.checkpoint_candidates import checkpoint_candidates
from torchprof.trace.model import Model
from torchprof.trace.schema import Phase, Use

GIB = 2**30
KEPT = int(Use.READ_BY_BACKWARD | Use.HELD_AFTER_CALL)


def step(parameters: int = 1, unit: int = GIB, **facts: Any) -> torchprof.Trace:
    """``Net(a=Block(fc, act), b=Block(fc, act))``, of which each makes these for backward::

    a   10 ns   fc 2, act 1 and its own 1, which it returns     b   40 ns   the same
    """
    blocks = ("a", "b")
    infos = [module("", "Net", -1, 100)]
    calls: list[dict[str, Any]] = [{"start": 0, "end": 100}]
    ops: list[dict[str, Any]] = [{"name": 0, "start": 0, "end": 100, "flags": FORWARD}]
    allocations: list[dict[str, Any]] = [{"start": -1, "bytes": parameters * unit, "uses": int(Use.PARAMETER), "address": 1}]
    tensors: list[dict[str, Any]] = []
    begin = 1
    for path, time in zip(blocks, (10, 40), strict=True):
        outer, root = len(calls), len(infos)
        infos += [
            module(path, "Block", 0, 100 + root),
            module(f"{path}.fc", "Linear", root, 101 + root),
            module(f"{path}.act", "GELU", root, 102 + root),
        ]
        calls.append({"start": begin, "end": begin + time, "parent": 0, "module": root})
        calls.append({"start": begin + 1, "end": begin + 2, "parent": outer, "module": root + 1})
        calls.append({"start": begin + 3, "end": begin + 4, "parent": outer, "module": root + 2})
        for call, size, at in ((outer + 1, 2, 1), (outer + 2, 1, 3), (outer, 1, 5)):
            address = 10 * call
            made = {"start": begin + at, "end": 300, "bytes": size * unit, "address": address, "uses": KEPT}
            allocations.append({**made, "op": 0, "free_op": 1, "module_call": call, "module": calls[call]["module"]})
            calls[call] |= {"outputs": len(tensors), "n_outputs": 1}
            tensors.append({"storage": address})
        begin += time
    ops.append({"name": 1, "start": 200, "end": 400, "flags": int(Phase.BACKWARD) << 4})
    return trace(
        model=Model(tuple(infos)),
        strings=["aten::relu", "ReluBackward0", "Module"],
        shapes=[()],
        tensors=tensors,
        operands=list(range(len(tensors))),
        modules=[{"address": 100 + row} for row in range(len(infos))],
        module_calls=calls,
        ops=ops,
        allocations=allocations,
        steps=[{"start": 0, "end": 500, "forward": 100, "backward": 200}],
        facts=facts,
    )


def test_most_bytes_for_their_time_first() -> None:
    (found,) = checkpoint_candidates(step())
    assert found.details == (
        "a: 3,072.0 MiB for 0.01 us a step, 293.0 TiB per ms",
        "b: 3,072.0 MiB for 0.04 us a step, 73.2 TiB per ms",
    )
    assert found.what.startswith("89% of the peak of 9,216.0 MiB are activations")
    assert found.worth is not None
    assert (found.worth.low, found.worth.high, found.worth.whole) == (3 * GIB, 6 * GIB, 9 * GIB)  # one of 3 is made again
    assert not found.worth.measured


def test_a_peak_that_is_mostly_parameters() -> None:
    assert list(checkpoint_candidates(step(parameters=9))) == []


def test_little_memory() -> None:
    assert list(checkpoint_candidates(step(unit=2**20))) == []


@pytest.mark.parametrize(
    ("facts", "why"),
    [
        ({"shapes": False}, "shapes"),
        ({"losses": {"module_calls": 3}}, "module calls"),
        ({"outputs": False}, "what modules return"),
        ({"aggregate": True}, "aggregate"),
    ],
)
def test_where_it_cannot_be_told(facts: dict[str, Any], why: str) -> None:
    with pytest.raises(NotTold, match=why):
        list(checkpoint_candidates(step(**facts)))
