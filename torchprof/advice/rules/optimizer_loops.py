"""The optimizer updates one parameter after another, instead of many at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from torchprof.advice.finding import Finding
from torchprof.advice.loop import loop_of
from torchprof.advice.op_sums import names_of, op_sums, sum_tensors
from torchprof.advice.ops_of import (
    called_by_python,
    check_ops,
    device_time,
    host_time,
    innermost_around,
    input_tensors,
    is_number,
    lines_by,
    on_host,
    ranges_named,
    uses_device,
)
from torchprof.advice.places import Places, per_step
from torchprof.advice.registry import rule
from torchprof.analysis.lines.stack_costs import is_aggregated
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
COPY: Final = "aten::copy_"
MANY: Final = 50
"""Ops in one step of an optimizer, below which there is little to gain."""
FUSED_ON_CPU: Final = frozenset({"Adam", "AdamW", "SGD", "Adagrad"})
"""Optimizers of PyTorch that ``fused=True`` updates at once on the CPU, where ``foreach=True`` gains nothing."""
MOST: Final = 25
"""Ops for a parameter: where there are more, others are updated as well, of which it is not known that they are parameters."""
FUSED: Final = FUSED_ON_CPU - {"Adagrad"}
FOREACH: Final = frozenset("Adadelta Adafactor Adagrad Adamax ASGD NAdam RAdam RMSprop Rprop Muon".split())
"""Other optimizers of PyTorch that ``foreach=True``, the default on a device, updates at once."""
LEAST: Final = 0.03
"""Part of a step that the optimizer must take: what can be gained is less."""


@rule("an optimizer that loops over its parameters")
def optimizer_loops(trace: Trace) -> Iterator[Finding]:
    """Ops that each optimizer called by itself in a step; none where they update many parameters at once."""
    loop = loop_of(trace)
    for steps in _of_totals(trace) if is_aggregated(trace) else _of_ops(trace):
        advice = _advice(steps.optimizer, steps.on_cpu)
        host, device = steps.host / loop.steps, steps.device / loop.steps
        time = loop.most_saved(max(host, device), device)
        if steps.ops.count < MANY * steps.count or steps.at_once or time < LEAST * loop.time or not advice:
            continue
        each = steps.ops.count / steps.count / steps.parameters if steps.parameters else 0
        of_each = f" for {counted(steps.parameters, 'parameter')}" if 1 <= each <= MOST else ""
        how_many = f"{per_step(steps.ops.count, loop, 'op')}{of_each}"
        yield Finding(
            "optimizer_loops",
            f"{steps.optimizer} updates its parameters one by one: {how_many}, in {format_ns(round(steps.host / loop.steps))}",
            advice,
            "https://docs.pytorch.org/docs/stable/optim.html#algorithms",
            # At least nothing: reading and writing the parameters takes its time however many ops do it.
            loop.worth(time, "the time of the optimizer, of which memory needs its part"),
            lines=steps.lines,
            details=steps.ops.details(loop),
        )


@dataclass(frozen=True, slots=True)
class _Steps:
    """The steps of an optimizer in all active steps of the loop.

    Attributes:
        optimizer: its class.
        count: how many.
        host, device: nanoseconds.
        ops: what it called to update tensors, but for counters, which are numbers.
        at_once: whether some of these update many.
        on_cpu: whether all are on the CPU.
        parameters: how many; 0: not known.
        lines: where it was called.
    """

    optimizer: str
    count: int
    host: int
    device: int
    ops: Places
    at_once: bool
    on_cpu: bool
    parameters: int = 0
    lines: tuple[str, ...] = ()


def _of_ops(trace: Trace) -> Iterator[_Steps]:
    check_ops(trace)
    ranges = ranges_named(trace, STEP)
    if not len(ranges):
        return
    called = called_by_python(trace)
    called = called[phases(trace.ops)[called] == Phase.OPTIMIZER]
    within = innermost_around(trace, called, ranges)
    first = input_tensors(trace, called, 0)
    kept = (within >= 0) & ~is_number(trace, first)
    called, within, first = called[kept], within[kept], first[kept]
    names = trace.op_names
    at_once = np.array([any(part in name for part in AT_ONCE) for name in trace.strings], dtype=np.bool_)
    for name in np.unique(names[ranges]).tolist():
        own, mine = ranges[names[ranges] == name], names[within] == name
        ops = called[mine]
        times = host_time(trace, own)
        yield _Steps(
            _class_of(trace.strings[name]),
            len(own),
            int(times.sum()),
            int(device_time(trace, own).sum()),
            Places.of([trace.strings[row] for row in names[ops].tolist()], [""] * len(ops), host_time(trace, ops)),
            bool(at_once[names[ops]].any()),
            not uses_device(trace) or bool(on_host(trace, first[mine]).all()),
            _parameters(trace, first[mine]),
            lines_by(trace, own, times)[:1],
        )


def _of_totals(trace: Trace) -> Iterator[_Steps]:
    """Of an aggregated trace with one optimizer: its sums do not tell what two of them called."""
    sums = op_sums(trace)
    names = np.array(names_of(trace, sums), dtype=object)
    is_step = np.array([name.startswith(STEP) for name in names], dtype=np.bool_)
    if len(set(names[is_step])) != 1:
        return
    first = sum_tensors(trace, sums, 0)
    in_place = np.array([name.startswith("aten::") and name.endswith("_") and name != COPY for name in names], dtype=np.bool_)
    ops = (sums["phase"] == Phase.OPTIMIZER) & in_place & ~is_number(trace, first)
    steps, own = sums[is_step], sums[ops]
    yield _Steps(
        _class_of(str(names[is_step][0])),
        int(steps["count"].sum()),
        int(steps["time"].sum()),
        int(steps["device_time"].sum()),
        Places.of(names[ops].tolist(), [""] * len(own), own["time"], own["count"]),
        any(part in name for name in names for part in AT_ONCE),
        not uses_device(trace) or bool(on_host(trace, first[ops]).all()),
    )


def _class_of(name: str) -> str:
    return name.removeprefix(STEP).removesuffix(".step")


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


def _parameters(trace: Trace, first: Ints) -> int:
    """How many of these tensors are parameters: blocks that hold one; 0 where it is not known."""
    blocks = trace.allocations[trace.allocations["uses"] & Use.PARAMETER != 0]["address"]
    return int(np.isin(np.unique(trace.tensors["storage"][first[first >= 0]]), blocks).sum())
