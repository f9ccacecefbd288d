"""Single ops of the active steps: those with a name, their tensors, modules and lines, and the time that they take.

Rows are of ``trace.ops``. What needs no order of ops and no addresses of tensors takes sums instead, which an aggregated trace
has too: `torchprof.advice.op_sums`.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from torchprof.advice.registry import NotTold
from torchprof.analysis.gpu.op_kernels import device_times_of_ops
from torchprof.analysis.lines.stack_costs import is_aggregated
from torchprof.analysis.lines.where import lines_of_ops, most_first
from torchprof.analysis.lookups import modules_of_calls
from torchprof.analysis.model.module_tree import paths_of_modules
from torchprof.analysis.remembered import remembered
from torchprof.analysis.spans import durations
from torchprof.analysis.steps import active_steps, step_of
from torchprof.trace.schema import SCOPE_USER
from torchprof.trace.trace import Trace

__all__ = [
    "are_counted",
    "check_ops",
    "device_time",
    "host_time",
    "input_tensors",
    "inside",
    "lines_by",
    "modules_by",
    "ops_named",
    "ops_where",
    "outermost_of",
    "output_tensors",
]

Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


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
    """The ops of active steps with one of these names."""
    return ops_where(trace, [row for row, name in enumerate(trace.strings) if name in names])


def ops_where(trace: Trace, names: Iterable[int]) -> Ints:
    """The ops of active steps whose names are these rows of ``trace.strings``. User ranges are none."""
    wanted = np.zeros(len(trace.strings) + 1, dtype=np.bool_)
    wanted[list(names)] = True
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
    parent = trace.ops["parent"]
    is_around = np.zeros(len(trace.ops) + 1, dtype=np.bool_)  # one more: at -1, of no op
    is_around[around] = True
    found = np.zeros(len(rows), dtype=np.bool_)
    left = np.arange(len(rows))
    above = parent[rows].astype(np.int64)
    while len(left):
        found[left] = is_around[above]
        goes_on = (above >= 0) & ~found[left]
        left, above = left[goes_on], parent[above[goes_on]].astype(np.int64)
    return found


def host_time(trace: Trace, rows: Ints) -> Ints:
    """Nanoseconds of the host in every one of these ops, with what ran inside."""
    return durations(trace.ops[rows])


def device_time(trace: Trace, rows: Ints) -> Ints:
    """Nanoseconds of the kernels that every one of these ops launched, itself or in ops inside; 0 without kernels."""
    return device_times_of_ops(trace)[rows] if len(trace.kernels) else np.zeros(len(rows), dtype=np.int64)


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


def lines_by(trace: Trace, rows: Ints, values: npt.ArrayLike) -> tuple[str, ...]:
    """The lines that these ops are of, such as ``train.py:31``, that with the largest sum of values first."""
    return tuple(most_first(zip(lines_of_ops(trace, rows), np.asarray(values).tolist(), strict=True)))


def modules_by(trace: Trace, rows: Ints, values: npt.ArrayLike) -> tuple[str, ...]:
    """The same of the paths of modules; that of the model itself, which is empty, is left out."""
    paths = [*paths_of_modules(trace), ""]
    modules = modules_of_calls(trace, trace.ops["module_call"][rows])
    sums = np.bincount(modules + 1, weights=np.asarray(values, dtype=np.float64))
    found = np.unique(modules + 1)
    return tuple(most_first((paths[at - 1], float(sums[at])) for at in found.tolist()))
