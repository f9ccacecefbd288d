"""Traces of many ranks, written by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
from handwritten import FORWARD, module, trace

from torchprof.trace.model import Model
from torchprof.trace.schema import LAYOUTS, Phase
from torchprof.trace.trace import Trace

MS = 1_000_000
BACKWARD = int(Phase.BACKWARD) << 4


OF_AN_ALL_REDUCE: Final[dict[str, Any]] = {
    "shapes": [(1000,)],
    "tensors": [{"shape": 0, "dtype": 6, "storage": 1, "bytes": 4000}],
    "operands": [0, 0, 0],
    "signatures": [
        {"name": 2},
        {"name": 3, "inputs": 0, "n_inputs": 1, "outputs": 1, "n_outputs": 1},
        {"name": 4, "inputs": 2, "n_inputs": 1},
        {"name": 5},
    ],
}
"""The tables of a trace whose fourth name is the all-reduce of 1000 float32, and whose fifth is its range of gloo."""


def rank_trace(
    rank: int, world: int = 4, *, forward: Sequence[float] = (10, 10, 10), modules: Sequence[str] = ("fc",), **facts: Any
) -> Trace:
    """A rank that trains ``Net(fc=Linear)`` in steps of forward, of so many ms each, and backward, up to 40 ms.

    In each step an all-reduce of 1000 float32 is asked for at 30 ms, runs on a thread of gloo from 31 ms to 38 ms, and a
    product runs beside it until 33 ms.
    """
    names = ["Net", "Linear", "aten::mm", "c10d::allreduce_", "gloo:all_reduce", "autograd::engine::evaluate_function"]
    ops: list[dict[str, Any]] = []
    calls: list[dict[str, Any]] = []
    steps: list[dict[str, Any]] = []
    for number, time in enumerate(forward):
        begin = number * 40 * MS
        end = begin + int(time * MS)
        net = len(calls)
        calls.append({"start": begin, "end": end, "module": 0})
        calls += [{"start": begin, "end": end, "module": 1 + at, "parent": net} for at in range(len(modules))][:1]
        ops.append({"signature": 0, "start": begin, "end": end, "module_call": net + 1, "flags": FORWARD})
        node = len(ops)
        ops.append({"signature": 3, "start": end, "end": begin + 39 * MS, "scope": 1, "flags": BACKWARD})
        ops.append({"signature": 0, "start": end, "end": begin + 29 * MS, "parent": node, "flags": BACKWARD})
        sent = {"inputs": 0, "n_inputs": 1, "outputs": 1, "n_outputs": 1}
        ops.append(
            {"signature": 1, "start": begin + 30 * MS, "end": begin + 31 * MS, "parent": node, "flags": BACKWARD, **sent}
        )
        ops.append({"signature": 0, "start": begin + 32 * MS, "end": begin + 33 * MS, "parent": node, "flags": BACKWARD})
        steps.append({"start": begin, "end": begin + 40 * MS, "number": number, "peak": 1000 + rank})
    for number in range(len(forward)):
        begin = number * 40 * MS
        of_gloo = {"scope": 7, "thread": 1, "inputs": 2, "n_inputs": 1}
        ops.append({"signature": 2, "start": begin + 31 * MS, "end": begin + 38 * MS, **of_gloo})
    return trace(
        model=Model((module("", "Net", -1, 100), *(module(path, "Linear", 0, 101 + at) for at, path in enumerate(modules)))),
        strings=names,
        **OF_AN_ALL_REDUCE,
        modules=[{"address": 100, "type": 0}, *({"address": 101 + at, "type": 1} for at in range(len(modules)))],
        module_calls=calls,
        ops=ops,
        steps=steps,
        facts={
            "rank": rank,
            "world_size": world,
            "host": f"node{rank // 2}",
            "duration_ns": len(forward) * 40 * MS,
            "origin_unix_ns": 1_000_000 * MS,
            "memory": False,
            "ops": True,
            **facts,
        },
    )


HOURS = 3_600_000 * MS


def holding(trace: Trace, peak: int) -> Trace:
    """The same, of which every step holds so many bytes in one block."""
    block = np.zeros(1, dtype=LAYOUTS["allocations"])
    for column in ("op", "free_op", "module_call", "module", "end"):
        block[column] = -1
    block["start"], block["bytes"], block["address"] = 1, peak, 1
    return replace(trace, allocations=block, facts={**trace.facts, "memory": True})


def meeting_trace(
    rank: int, came: Sequence[Sequence[float]], *, step: float = 40, origin: int = 0, runs: float = 1, **facts: Any
) -> Trace:
    """A rank that trains ``Net(fc=Linear)`` and comes to an all-reduce in every step, at so many ms of it.

    It is in forward, in ``fc``, until a ms before it asks. The all-reduce runs on a thread of gloo from 0.1 ms after that until
    ``runs`` ms after the last rank asked. After it, the optimizer runs until the end of the step.

    Args:
        came: of every step, when each of the ranks comes.
        origin: nanoseconds by which the clock of the rank is ahead.
    """
    world = len(came[0])
    names = ["Net", "Linear", "aten::mm", "c10d::allreduce_", "gloo:all_reduce", "aten::add_"]
    ops: list[dict[str, Any]] = []
    ranges: list[dict[str, Any]] = []
    calls: list[dict[str, Any]] = []
    steps: list[dict[str, Any]] = []
    for number, of_ranks in enumerate(came):
        begin = round(number * step * MS)
        asks, done = begin + round(of_ranks[rank] * MS), begin + round((max(of_ranks) + runs) * MS)
        end = begin + round(step * MS)
        net = len(calls)
        calls += [
            {"start": begin, "end": asks - MS, "module": 0},
            {"start": begin, "end": asks - MS, "module": 1, "parent": net},
        ]
        sent = {"inputs": 0, "n_inputs": 1, "outputs": 1, "n_outputs": 1}
        ops += [
            {"signature": 0, "start": begin, "end": asks - MS, "module_call": net + 1, "flags": FORWARD},
            {"signature": 1, "start": asks, "end": asks + MS // 20, "flags": BACKWARD, **sent},
            {"signature": 3, "start": done, "end": end, "flags": int(Phase.OPTIMIZER) << 4},
        ]
        of_gloo = {"scope": 7, "thread": 1, "inputs": 2, "n_inputs": 1}
        ranges.append({"signature": 2, "start": asks + MS // 10, "end": done, **of_gloo})
        steps.append({"start": begin, "end": end, "number": number})
    return trace(
        model=Model((module("", "Net", -1, 100), module("fc", "Linear", 0, 101))),
        strings=names,
        **OF_AN_ALL_REDUCE,
        modules=[{"address": 100, "type": 0}, {"address": 101, "type": 1}],
        module_calls=calls,
        ops=[*ops, *ranges],
        steps=steps,
        facts={
            "rank": rank,
            "world_size": world,
            "host": "node0",
            "duration_ns": round(len(came) * step * MS),
            "origin_unix_ns": 1_000_000 * MS + origin,
            "memory": False,
            "ops": True,
            "process_groups": [{"name": "0", "description": "default_pg", "backend": "gloo", "ranks": list(range(world))}],
            **facts,
        },
    )


def stage_trace(
    rank: int,
    works: Sequence[tuple[str, float, float]],
    messages: Sequence[tuple[str, float, float]] = (),
    *,
    world: int = 2,
    step: float = 50,
    steps: int = 1,
    began: float = 0,
    **facts: Any,
) -> Trace:
    """A rank that works on microbatches, and sends and receives, at the same times of each step.

    Args:
        works: ``("forward", 0, 2)``: an op of that phase and a module call around it, from and to so many ms of the step. Also
            ``"backward"`` and ``"optimizer"``.
        messages: ``("send", 2, 3)`` or ``("receive", 0, 2)``: when it was asked for, and when it was done.
        began: ms by which the recording of the rank began after the others. Times are by the clock of these.
    """
    names = ["Net", "aten::mm", "c10d::send", "c10d::recv_", "gloo:send", "gloo:recv"]
    phase_of = {"forward": FORWARD, "backward": BACKWARD, "optimizer": int(Phase.OPTIMIZER) << 4}
    ops: list[dict[str, Any]] = []
    ranges: list[dict[str, Any]] = []
    calls: list[dict[str, Any]] = []
    for begin in (number * step - began for number in range(steps)):
        for phase, start, end in works:
            times = {"start": round((begin + start) * MS), "end": round((begin + end) * MS)}
            if phase == "forward":
                calls.append({**times, "module": 0})
            call = len(calls) - 1 if phase == "forward" else -1
            ops.append({"signature": 0, **times, "flags": phase_of[phase], "module_call": call})
        for kind, asked, done in messages:
            sends, at = kind == "send", round((begin + asked) * MS)
            given = {"inputs": 0, "n_inputs": 1}
            ops.append({"signature": 1 if sends else 2, "start": at, "end": at, **given})
            of_gloo = {"start": at, "end": round((begin + done) * MS), "scope": 7, "thread": 1}
            ranges.append({"signature": 3 if sends else 4, **of_gloo, **given})
    ends = [round(((number + 1) * step - began) * MS) for number in range(steps)]
    return trace(
        model=Model((module("", "Net", -1, 100),)),
        strings=names,
        shapes=[(1000,)],
        tensors=[{"shape": 0, "dtype": 6, "storage": 1, "bytes": 4000}],
        operands=[0],
        signatures=[{"name": 1}, *({"name": 2 + at, "inputs": 0, "n_inputs": 1} for at in range(4))],
        modules=[{"address": 100, "type": 0}],
        module_calls=calls,
        ops=[*sorted(ops, key=lambda op: op["start"]), *sorted(ranges, key=lambda op: op["start"])],
        steps=[{"start": max(0, end - round(step * MS)), "end": end, "number": number} for number, end in enumerate(ends)],
        facts={
            "rank": rank,
            "world_size": world,
            "host": "node0",
            "duration_ns": ends[-1],
            "origin_unix_ns": 1_000_000 * MS + round(began * MS),
            "memory": False,
            "ops": True,
            **facts,
        },
    )


FIRST_STAGE: Final = [
    *[("forward", 0, 2), ("forward", 2, 4)],
    *[("backward", 12, 16), ("forward", 16, 18), ("backward", 22, 26), ("forward", 26, 28)],
    *[("backward", 32, 36), ("backward", 42, 46), ("optimizer", 46, 48)],
]
LAST_STAGE: Final = [
    *[("forward", 2, 6), ("backward", 6, 12), ("forward", 12, 16), ("backward", 16, 22)],
    *[("forward", 22, 26), ("backward", 26, 32), ("forward", 32, 36), ("backward", 36, 42), ("optimizer", 42, 43)],
]
OF_FIRST: Final = [
    *[("send", 2, 2), ("send", 4, 4), ("receive", 5, 12), ("send", 18, 18), ("receive", 18, 22)],
    *[("send", 28, 28), ("receive", 28, 32), ("receive", 36, 42)],
]
OF_LAST: Final = [
    *[("receive", 0, 2), ("send", 12, 12), ("receive", 12, 12), ("send", 22, 22), ("receive", 22, 22)],
    *[("send", 32, 32), ("receive", 32, 32), ("send", 42, 42)],
]
TWO_STAGES: Final[dict[str, Any]] = {"ranks": [0, 1], "schedule": "Schedule1F1B", "microbatches": 4}


def two_stages(*, is_told: bool = True, **more: Any) -> list[Trace]:
    """1F1B of four microbatches in two stages, of which the second takes 10 ms for one and the first 6 ms.

    The first one takes 1 ms before it asks for the first gradients.
    """
    return [
        stage_trace(rank, works, messages, **({"pipelines": [{**TWO_STAGES, "stages": [rank]}]} if is_told else {}), **more)
        for rank, (works, messages) in enumerate([(FIRST_STAGE, OF_FIRST), (LAST_STAGE, OF_LAST)])
    ]
