"""Single ops of the active steps: those with a name, their tensors, modules and lines, and the time that they take.

Rows are of ``trace.ops``. What needs no order of ops and no addresses of tensors takes sums instead, which an aggregated trace
has too: `torchprof.advice.op_sums`.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from torchprof.advice.finding import Worth
from torchprof.advice.loop import Loop
from torchprof.advice.registry import NotTold
from torchprof.analysis.gpu.op_kernels import device_times_of_ops
from torchprof.analysis.lines.stack_costs import is_aggregated
from torchprof.analysis.lines.where import lines_of_ops, most_first
from torchprof.analysis.lookups import modules_of_calls
from torchprof.analysis.model.module_tree import paths_of_modules
from torchprof.analysis.remembered import remembered
from torchprof.analysis.spans import durations
from torchprof.analysis.steps import active_steps, step_of
from torchprof.trace.schema import SCOPE_FUNCTION, SCOPE_USER, TENSOR_OBJECT
from torchprof.trace.trace import Trace

__all__ = [
    "are_counted",
    "called_by_python",
    "check_ops",
    "check_recorded",
    "device_time",
    "host_time",
    "innermost_around",
    "input_tensors",
    "inside",
    "is_number",
    "lines_by",
    "on_host",
    "only_module",
    "ops_named",
    "outermost_of",
    "output_tensors",
    "ranges_named",
    "saved_by",
    "uses_device",
]


Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
HOST: Final = ("cpu", "meta")


def check_ops(trace: Trace) -> None:
    """
    Raises:
        NotTold: the trace has no single ops.
    """
    if is_aggregated(trace):
        raise NotTold("the recording was aggregated, which keeps no single ops")
    if not len(trace.ops):
        raise NotTold("no ops were recorded")


@remembered
def are_counted(trace: Trace) -> Flags:
    """Which ops are of active steps: of all, where no steps were marked."""
    counted = step_of(trace.ops["start"], trace, active_steps(trace)) >= 0
    counted.flags.writeable = False
    return counted


def ops_named(trace: Trace, *names: str) -> Ints:
    """The ops of active steps with one of these names. User ranges are none."""
    wanted = np.array([name in names for name in trace.strings], dtype=np.bool_)
    if not wanted.any() or not len(trace.ops):
        return np.zeros(0, dtype=np.int64)
    found: Ints = np.flatnonzero(wanted[trace.op_names])
    found = found[are_counted(trace)[found] & (trace.ops["scope"][found] != SCOPE_USER)]
    return found


def outermost_of(trace: Trace, rows: Ints) -> Ints:
    """Those of the ops that ran in no other of them: the times of these can be added up."""
    return rows[~inside(trace, rows, rows)]


def inside(trace: Trace, rows: Ints, around: Ints) -> Flags:
    """Which of the ops ran inside one of those around."""
    return innermost_around(trace, rows, around) >= 0


def innermost_around(trace: Trace, rows: Ints, around: Ints) -> Ints:
    """For every op, the innermost of those around that it ran inside; -1: none."""
    parent = trace.ops["parent"]
    is_around = np.zeros(len(trace.ops) + 1, dtype=np.bool_)  # one more: at -1, of no op
    is_around[around] = True
    found = np.full(len(rows), -1, dtype=np.int64)
    left = np.arange(len(rows))
    above = parent[rows].astype(np.int64)
    while len(left):
        is_found = is_around[above]
        found[left[is_found]] = above[is_found]
        goes_on = (above >= 0) & ~is_found
        left, above = left[goes_on], parent[above[goes_on]].astype(np.int64)
    return found


def called_by_python(trace: Trace) -> Ints:
    """The ops of active steps that are calls of the dispatcher in no other op, but in user ranges: what the program called."""
    ops = trace.ops
    scope = ops["scope"]
    in_none = np.append(scope == SCOPE_USER, True)[ops["parent"]]
    return np.flatnonzero(in_none & (scope == SCOPE_FUNCTION) & are_counted(trace))


def ranges_named(trace: Trace, beginning: str) -> Ints:
    """The user ranges of active steps whose names begin like this, without those inside others of them."""
    wanted = np.array([name.startswith(beginning) for name in trace.strings], dtype=np.bool_)
    if not wanted.any() or not len(trace.ops):
        return np.zeros(0, dtype=np.int64)
    found: Ints = np.flatnonzero(wanted[trace.op_names] & (trace.ops["scope"] == SCOPE_USER) & are_counted(trace))
    return outermost_of(trace, found)


def host_time(trace: Trace, rows: Ints) -> Ints:
    """Nanoseconds of the host in every one of these ops, with what ran inside."""
    return durations(trace.ops[rows])


def device_time(trace: Trace, rows: Ints) -> Ints:
    """Nanoseconds of the kernels that every one of these ops launched, itself or in ops inside; 0 without kernels."""
    return device_times_of_ops(trace)[rows] if len(trace.kernels) else np.zeros(len(rows), dtype=np.int64)


def saved_by(trace: Trace, loop: Loop, rows: Ints, what: str, part: float = 1.0) -> Worth:
    """What it is worth at most that these ops are gone, or a part of their time.

    On the host alone the program waits for every op, so their time is gone with them. A device runs beside the host, and a step
    is as long as the busier of the two: it may be that nothing is gained, or as much as `Loop.most_saved` says.

    Args:
        what: the time is of: ``"the casts"``.
    """
    rows = outermost_of(trace, rows)
    host, device = (part * float(time.sum()) / loop.steps for time in (host_time(trace, rows), device_time(trace, rows)))
    if uses_device(trace):
        limit = ", as far as the device has idle time" if loop.idle is not None and host > loop.idle + device else ""
        return loop.worth(loop.most_saved(max(host, device), device), f"the longer of host and device time of {what}{limit}")
    return loop.worth(host, f"the time of {what}", low=host)


def check_recorded(trace: Trace) -> None:
    """
    Raises:
        NotTold: the trace has neither ops nor kernels, so that nobody knows what ran where.
    """
    if not any(len(rows) for rows in (trace.ops, trace.op_totals, trace.kernels, trace.kernel_totals)):
        raise NotTold("no ops were recorded")


@remembered
def uses_device(trace: Trace) -> bool:
    """Whether any tensor was on a device other than the CPU, or a device ran anything."""
    rows = np.flatnonzero(trace.tensors["flags"] & TENSOR_OBJECT == 0)
    return len(trace.kernels) > 0 or len(trace.kernel_totals) > 0 or not on_host(trace, rows).all()


def on_host(trace: Trace, tensors: Ints) -> Flags:
    """Which of these rows of ``trace.tensors`` are of the CPU, or of no device at all; so is -1, no tensor."""
    of_host = [number for number, name in trace.device_types.items() if name in HOST]
    is_host: Flags = np.append(np.isin(trace.tensors["device_type"], of_host), True)[tensors]
    return is_host


def input_tensors(trace: Trace, rows: Ints, place: int) -> Ints:
    """The row of ``trace.tensors`` that is the input at this place of every op; -1: it has none there."""
    return _tensors(trace, rows, place, "inputs")


def output_tensors(trace: Trace, rows: Ints, place: int = 0) -> Ints:
    """The same of outputs."""
    return _tensors(trace, rows, place, "outputs")


def _tensors(trace: Trace, rows: Ints, place: int, which: str) -> Ints:
    ops = trace.ops[rows]
    there = ops[f"n_{which}"] > place
    operands = np.append(trace.operands.astype(np.int64), -1)
    return operands[np.where(there, ops[which].astype(np.int64) + place, -1)]


def is_number(trace: Trace, tensors: Ints) -> Flags:
    """Which of these rows of ``trace.tensors`` have no dimension; -1 has none, and is no tensor."""
    found: Flags = np.append(trace.shapes["ndim"][trace.tensors["shape"]] == 0, False)[tensors]
    return found


def lines_by(trace: Trace, rows: Ints, values: npt.ArrayLike) -> tuple[str, ...]:
    """The lines that these ops are of, such as ``train.py:31``, that with the largest sum of values first."""
    return tuple(most_first(zip(lines_of_ops(trace, rows), np.asarray(values).tolist(), strict=True)))


def only_module(trace: Trace, rows: Ints) -> str:
    """The path of the module that all these ops are of; empty where they are of several."""
    modules = np.unique(modules_of_calls(trace, trace.ops["module_call"][rows]))
    return [*paths_of_modules(trace), ""][int(modules[0])] if len(modules) == 1 else ""
