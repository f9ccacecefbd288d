"""The optimizer updates one parameter after another, instead of many at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt

from torchprof.advice.finding import Finding
from torchprof.advice.loop import loop_of
from torchprof.advice.ops_of import (
    called_by_python,
    check_ops,
    device_time,
    host_time,
    innermost_around,
    input_tensors,
    lines_by,
    on_host,
    ranges_named,
    uses_device,
)
from torchprof.advice.places import Places, per_step
from torchprof.advice.registry import rule
from torchprof.rendering.units import format_ns
from torchprof.trace.schema import Phase, Use, phases
from torchprof.trace.trace import Trace
from torchprof.wording import counted

__all__ = ["optimizer_loops"]

Ints = npt.NDArray[np.int64]

STEP: Final = "Optimizer.step#"
"""What PyTorch names the step of every optimizer, followed by its class: ``Optimizer.step#AdamW.step``."""
AT_ONCE: Final = ("_foreach_", "_fused_", "multi_tensor")
"""In the names of ops that update many parameters."""
MANY: Final = 50
"""Ops in one step of an optimizer, below which there is little to gain."""
FUSED_ON_CPU: Final = frozenset({"Adam", "AdamW", "SGD", "Adagrad"})
"""Optimizers of PyTorch that ``fused=True`` updates at once on the CPU, where ``foreach=True`` gains nothing."""
MOST: Final = 25
"""Ops for a parameter: where there are more, others are updated as well, of which it is not known that they are parameters."""
FUSED: Final = FUSED_ON_CPU - {"Adagrad"}
FOREACH: Final = frozenset("Adadelta Adafactor Adagrad Adamax ASGD NAdam RAdam RMSprop Rprop Muon".split())
"""Other optimizers of PyTorch that ``foreach=True``, the default on a device, updates at once."""
IN_OPS: Final = 0.25
"""Part of the time of the optimizer that these ops must take: the rest is Python between them. Else it does other work."""
LEAST: Final = 0.03
"""Part of a step that the optimizer must take: what can be gained is less."""


@rule("an optimizer that loops over its parameters")
def optimizer_loops(trace: Trace) -> Iterator[Finding]:
    """Ops that each optimizer called by itself in a step; none where they update many parameters at once."""
    check_ops(trace)
    loop = loop_of(trace)
    ranges = ranges_named(trace, STEP)
    if not len(ranges):
        return
    called = called_by_python(trace)
    called = called[phases(trace.ops)[called] == Phase.OPTIMIZER]
    within = innermost_around(trace, called, ranges)
    called, within = called[within >= 0], within[within >= 0]
    names = trace.op_names
    at_once = np.array([any(part in name for part in AT_ONCE) for name in trace.strings], dtype=np.bool_)
    for name in np.unique(names[ranges]).tolist():
        own = ranges[names[ranges] == name]
        ops = called[names[within] == name]
        optimizer = trace.strings[name].removeprefix(STEP).removesuffix(".step")
        if len(ops) < MANY * len(own) or at_once[names[ops]].any():
            continue
        host, device = (int(time.sum()) / loop.steps for time in (host_time(trace, own), device_time(trace, own)))
        times = host_time(trace, ops)
        on_cpu = not uses_device(trace) or bool(on_host(trace, input_tensors(trace, ops, 0)).all())
        advice = _advice(optimizer, on_cpu)
        if max(host, device) < LEAST * loop.time or int(times.sum()) < IN_OPS * host * loop.steps or not advice:
            continue
        parameters = _parameters(trace, ops)
        each = len(ops) / len(own) / parameters if parameters else 0
        of_each = f" for {counted(parameters, 'parameter')}" if 1 <= each <= MOST else ""
        how_many = f"{per_step(len(ops), loop, 'op')}{of_each}"
        yield Finding(
            "optimizer_loops",
            f"{optimizer} updates its parameters one by one: {how_many}, in {format_ns(round(host))}",
            advice,
            "https://docs.pytorch.org/docs/stable/optim.html#algorithms",
            # At least nothing: reading and writing the parameters takes its time however many ops do it.
            loop.worth(max(host, device), "the time of the optimizer, of which memory needs its part"),
            lines=lines_by(trace, own, host_time(trace, own))[:1],
            details=Places.of([trace.strings[row] for row in names[ops].tolist()], [""] * len(ops), times).details(loop),
        )


def _advice(optimizer: str, on_cpu: bool) -> str:
    """What to do; empty where nothing is known to be faster."""
    if on_cpu:
        at_once = (
            f"Make it with {optimizer}(..., fused=True), which updates all parameters in one op; on the CPU foreach=True is not"
        )
        return f"{at_once} faster." if optimizer in FUSED_ON_CPU else ""
    if optimizer in FUSED:
        return f"Make it with {optimizer}(..., fused=True), which updates all parameters in one op, or without foreach=False."
    if optimizer in FOREACH:
        return f"Make it without foreach=False: {optimizer}(..., foreach=True) updates all parameters with a few ops."
    return "Update all parameters at once, with torch._foreach_add_ and the like, or compile the step of the optimizer."


def _parameters(trace: Trace, ops: Ints) -> int:
    """How many parameters these ops write to: blocks that hold one, as first inputs; 0 where it is not known."""
    blocks = trace.allocations[trace.allocations["uses"] & Use.PARAMETER != 0]["address"]
    first = input_tensors(trace, ops, 0)
    storages = np.unique(trace.tensors["storage"][first[first >= 0]])
    return int(np.isin(storages, blocks).sum())
