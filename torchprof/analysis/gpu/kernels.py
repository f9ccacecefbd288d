"""What devices did: times, steps and modules of kernels, copies and fills, and their sums.

A row of ``trace.kernels`` belongs to the step in which the runtime call that asked for it began; where that was not seen, to
the step of the op that asked for it; where no op is known either, to the step in which it started on the device. Its module is
that of its module call.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from torchprof.analysis.groups import Groups
from torchprof.analysis.steps import active_steps, step_of
from torchprof.analysis.time.calls import modules_of_calls, names_of_ops, with_descendants
from torchprof.trace.schema import DEVICE_NAMES, NO_NAME, Activity, Phase, Rows
from torchprof.trace.trace import Trace

__all__ = [
    "KERNELS",
    "call_kernel_times",
    "device_name",
    "folded_kernels",
    "has_kernels",
    "kernel_steps",
    "kernel_sums",
    "kernel_times",
    "launch_times",
    "unseen_launches",
    "watched",
    "why_unwatched",
]

Ints = npt.NDArray[np.int64]

_KEYS = ("name", "op", "module", "phase", "kind", "direction", "device_type", "device_index", "in_graph")

KERNELS = np.dtype([(column, "i8") for column in (*_KEYS, "step", "count", "time", "min", "max", "bytes")])
"""Sums over kernels: ``name`` and ``op`` are rows of strings, ``module`` of modules; -1 is none."""


def watched(trace: Trace) -> str:
    """How devices were watched: ``"cupti"``, ``"events"``, or ``"off"``."""
    how = str(trace.facts.get("gpu", "off"))
    return "cupti" if how == "off" and has_kernels(trace) else how


def why_unwatched(trace: Trace) -> str:
    """Why there are no kernels in a trace of which no device was watched."""
    note = trace.facts.get("gpu_note") or "facts['gpu'] is 'off'"
    return f"the trace has no kernels, for no device was watched while it was recorded ({note})"


def device_name(device_type: int, index: int) -> str:
    """As in ``cuda:0``; the only device of a type has no index in PyTorch, and is its first."""
    known = 0 <= device_type < len(DEVICE_NAMES)
    return f"{DEVICE_NAMES[device_type] if known else f'device {device_type}'}:{max(0, index)}"


def has_kernels(trace: Trace) -> bool:
    """Whether a device is known to have done anything."""
    return len(trace.kernels) > 0 or len(trace.kernel_totals) > 0


def kernel_times(kernels: Rows) -> Ints:
    """Nanoseconds of every row of ``kernels``; 0 where the end was not seen, or lies before the start."""
    start, end = kernels["start"], kernels["end"]
    return np.where((end != -1) & (end > start), end - start, 0)


def call_kernel_times(trace: Trace) -> tuple[Ints, Ints]:
    """Of every row of ``module_calls``, the device time that it and the calls inside it asked for: forward, and backward."""
    call, backward = trace.kernels["module_call"], trace.kernels["phase"] == Phase.BACKWARD
    time, parent = kernel_times(trace.kernels), trace.module_calls["parent"]

    def summed(mask: npt.NDArray[np.bool_]) -> Ints:
        sums = np.bincount(call[mask], weights=time[mask], minlength=len(parent))
        return with_descendants(sums.astype(np.int64), parent)

    return summed((call >= 0) & ~backward), summed((call >= 0) & backward)


def launch_times(trace: Trace) -> Ints:
    """When the host asked for every row of ``kernels``: began the runtime call or, where none was seen, the op. -1: unknown."""
    kernels = trace.kernels
    call, op = kernels["runtime_call"].astype(np.int64), kernels["op"].astype(np.int64)
    of_call = np.append(trace.runtime_calls["start"], -1)[np.where(call >= 0, call, -1)]
    of_op = np.append(trace.ops["start"], -1)[np.where(op >= 0, op, -1)]
    return np.where(call >= 0, of_call, of_op)


def kernel_steps(trace: Trace, active: Rows) -> Ints:
    """The active step that every row of ``kernels`` belongs to; -1: none."""
    asked = launch_times(trace)
    return step_of(np.where(asked >= 0, asked, trace.kernels["start"]), trace, active)


def unseen_launches(trace: Trace) -> int:
    """How many kernels of active steps there are whose runtime call was not seen, where such calls are recorded."""
    counted = kernel_steps(trace, active_steps(trace)) >= 0
    return int((counted & (trace.kernels["runtime_call"] < 0) & (trace.kernels["kind"] != Activity.INTERVAL)).sum())


def kernel_sums(trace: Trace, active: Rows) -> Rows:
    """The kernels of active steps, summed by step and by all that tells them apart in ``KERNELS``."""
    step = kernel_steps(trace, active)
    counted = np.flatnonzero(step >= 0)
    # Column by column: whole rows are copied ten times as slowly.
    kernels = trace.kernels
    columns = {name: kernels[name][counted] for name in _KEYS if name not in ("op", "module", "in_graph")}
    columns["op"] = names_of_ops(trace, kernels["op"][counted])
    columns["module"] = modules_of_calls(trace, kernels["module_call"][counted])
    columns["in_graph"] = (kernels["graph"][counted] != 0).astype(np.int64)
    columns["step"] = step[counted]
    order = (*_KEYS, "step")
    groups = Groups.by([columns[name] for name in order])
    rows = np.zeros(len(groups.first), dtype=KERNELS)
    for name in order:
        rows[name] = columns[name][groups.first]
    time = kernel_times(kernels)[counted]
    rows["count"] = groups.count
    rows["time"], rows["bytes"] = groups.sums(time), groups.sums(kernels["bytes"][counted])
    rows["min"], rows["max"] = groups.least(time), groups.most(time)
    return rows


def folded_kernels(totals: Rows) -> Rows:
    """The same of a trace that was folded while it was recorded; all rows are of step 0."""
    rows = np.zeros(len(totals), dtype=KERNELS)
    for name in KERNELS.names or ():
        if name != "step":
            rows[name] = totals[name]
    rows["op"][totals["op"] == NO_NAME] = -1
    return rows
