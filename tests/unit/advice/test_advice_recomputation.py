"""`recomputation`: what activation checkpointing costs, and what it saves."""

from __future__ import annotations

from typing import Any

import pytest
from handwritten import FORWARD, module, trace
from launches import Launch, gpu_step

import torchprof
from torchprof.advice.registry import NotTold
from torchprof.advice.rules.recomputation import recomputation
from torchprof.trace.model import Model
from torchprof.trace.schema import CALL_RECOMPUTED, Phase, Use

KIB = 1024
AGAIN, BACKWARD = int(Phase.RECOMPUTATION) << 4, int(Phase.BACKWARD) << 4


def checkpointed(time: int, **facts: Any) -> torchprof.Trace:
    """A step of 1,000 ns: two blocks run, and again for so long each, the second first; each makes 3 and 1 KiB for backward."""
    calls, ops, blocks = [], [], []
    for block in range(2):
        calls.append({"start": 10 + block, "end": 11 + block, "module": block})
    ops.append({"name": 0, "start": 10, "end": 12, "flags": FORWARD})
    for block in (1, 0):
        begin = 100 + 400 * (1 - block)
        end = begin + time
        calls.append({"start": begin, "end": end, "module": block, "op": len(ops), "flags": CALL_RECOMPUTED})
        ops.append({"name": 1, "start": begin, "end": end + 50, "flags": BACKWARD})
        for size in (3 * KIB, KIB):
            made = {
                "start": begin + 1,
                "end": end + 40,
                "bytes": size,
                "op": len(ops),
                "module_call": len(calls) - 1,
                "module": block,
            }
            blocks.append({**made, "free_op": len(ops) - 1, "uses": int(Use.READ_BY_BACKWARD | Use.HELD_AFTER_CALL)})
        ops.append(
            {"name": 0, "start": begin, "end": end, "parent": len(ops) - 1, "module_call": len(calls) - 1, "flags": AGAIN}
        )
    return trace(
        model=Model((module("", "Net", -1, 99), module("first", "Block", 0, 100), module("second", "Block", 0, 101))),
        strings=["aten::relu", "ReluBackward0", "Block"],
        modules=[{"address": 100, "type": 2}, {"address": 101, "type": 2}],
        module_calls=calls,
        ops=ops,
        allocations=[{"start": -1, "bytes": 100 * KIB, "uses": int(Use.PARAMETER)}, *blocks],
        steps=[{"start": 0, "end": 1000, "forward": 100, "recompute": 2 * time}],
        facts=facts,
    )


def test_its_time_against_what_it_saves() -> None:
    (found,) = recomputation(checkpointed(time=100))
    assert found.worth is not None
    assert (found.worth.low, found.worth.high, found.worth.whole) == (0, 200, 1000)
    assert found.worth.measured
    assert "saves up to 4.0 KiB of activations; the peak is 104.0 KiB" in found.what  # one block is held at a time
    assert found.details == ("first: 4.0 KiB of activations for 0.10 us", "second: 4.0 KiB of activations for 0.10 us")


def test_a_small_price() -> None:
    assert list(recomputation(checkpointed(time=20))) == []


def test_a_loop_without_it() -> None:
    assert list(recomputation(trace(steps=[{"start": 0, "end": 1000, "forward": 500}]))) == []


@pytest.mark.parametrize("missing", ["memory", "shapes"])
def test_what_it_saves_may_not_be_known(missing: str) -> None:
    (found,) = recomputation(checkpointed(time=100, **{missing: False}))
    assert "what it saves is not known" in found.what
    assert found.details == ()


def test_on_a_device_the_time_of_kernels_counts() -> None:
    (found,) = recomputation(
        gpu_step(
            Launch("aten::mm", "gemm", 300),
            Launch("aten::mm", "gemm", 300, phase=Phase.RECOMPUTATION),
            Launch("aten::mm", "gemm", 600, phase=Phase.BACKWARD),
            us=1200,
        )
    )
    assert found.worth is not None
    assert (found.worth.of, found.worth.high, found.worth.whole) == ("step time", 300_000, 1_200_000)


def test_without_times_of_phases_it_cannot_be_told() -> None:
    with pytest.raises(NotTold, match="how long"):
        list(recomputation(trace()))
