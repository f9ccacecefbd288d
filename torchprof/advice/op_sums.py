"""Ops of the active steps, summed by what they do, in which phase and module, and by the line that they are of.

An aggregated trace has these sums as well. Their signatures say names, shapes, dtypes and devices.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from torchprof.analysis.gpu.op_kernels import device_times_of_ops, kernels_of_ops
from torchprof.analysis.groups import Groups
from torchprof.analysis.lines.op_stacks import op_stacks
from torchprof.analysis.lines.stack_costs import is_aggregated
from torchprof.analysis.lines.user_code import counted_rows
from torchprof.analysis.lines.where import lines_of_stacks
from torchprof.analysis.lookups import modules_of_calls
from torchprof.analysis.model.module_tree import paths_of_modules
from torchprof.analysis.remembered import remembered
from torchprof.analysis.spans import durations
from torchprof.analysis.steps import active_steps, step_of
from torchprof.trace.schema import SCOPE_USER, Rows, phases
from torchprof.trace.trace import Trace

__all__ = ["OP_SUMS", "lines_of", "modules_of", "names_of", "of_names", "op_sums", "sum_tensors"]

Ints = npt.NDArray[np.int64]

OP_SUMS = np.dtype(
    [
        ("signature", "i8"),  # row of trace.signatures
        ("module", "i8"),  # row of trace.modules; -1: none
        ("phase", "i8"),
        ("stack", "i8"),  # row of trace.stacks, of backward that of the forward op; -1: not known
        ("count", "i8"),
        ("time", "i8"),  # nanoseconds of the host, with what ran inside
        ("device_time", "i8"),  # of the kernels that the op, or an op inside it, launched
        ("kernels", "i8"),  # how many the op launched itself
        ("merged", "i8"),  # not 0: of many shapes, those of the signature are of the first
    ]
)


@remembered
def op_sums(trace: Trace) -> Rows:
    """The sums over all active steps. User ranges are not among them where there are single ops."""
    rows = _of_totals(trace) if is_aggregated(trace) else _of_ops(trace)
    rows.flags.writeable = False
    return rows


def _of_totals(trace: Trace) -> Rows:
    rows = np.zeros(len(trace.op_totals), dtype=OP_SUMS)
    for name in OP_SUMS.names or ():
        rows[name] = trace.op_totals[name]
    return rows


def _of_ops(trace: Trace) -> Rows:
    ops = trace.ops
    counted = np.flatnonzero((step_of(ops["start"], trace, active_steps(trace)) >= 0) & (ops["scope"] != SCOPE_USER))
    if not len(counted):
        return np.zeros(0, dtype=OP_SUMS)
    stack = op_stacks(trace).attributed(counted_rows(trace, False)) if len(trace.stacks) else np.full(len(ops), -1)
    columns = {
        "signature": ops["signature"][counted],
        "module": modules_of_calls(trace, ops["module_call"][counted]),
        "phase": phases(ops)[counted],
        "stack": stack[counted],
    }
    groups = Groups.by(list(columns.values()))
    rows = np.zeros(len(groups.first), dtype=OP_SUMS)
    for name, column in columns.items():
        rows[name] = column[groups.first]
    rows["count"], rows["time"] = groups.count, groups.sums(durations(ops)[counted])
    if len(trace.kernels):
        rows["device_time"] = groups.sums(device_times_of_ops(trace)[counted])
        rows["kernels"] = groups.sums(kernels_of_ops(trace)[1][counted])
    return rows


def of_names(trace: Trace, *names: str) -> Rows:
    """The sums of ops with these names."""
    wanted = np.array([name in names for name in trace.strings], dtype=np.bool_)
    sums = op_sums(trace)
    return sums[wanted[trace.signatures["name"][sums["signature"]]]] if len(sums) else sums


def names_of(trace: Trace, sums: Rows) -> list[str]:
    """The name of the op of each of these sums."""
    return [trace.strings[name] for name in trace.signatures["name"][sums["signature"]].tolist()]


def sum_tensors(trace: Trace, sums: Rows, place: int, which: str = "inputs") -> Ints:
    """The row of ``trace.tensors`` that is the input, or output, at this place of the first op of each sum; -1: none."""
    signatures = trace.signatures[sums["signature"]]
    there = signatures[f"n_{which}"] > place
    operands = np.append(trace.operands.astype(np.int64), -1)
    return operands[np.where(there, signatures[which].astype(np.int64) + place, -1)]


def modules_of(trace: Trace, sums: Rows) -> list[str]:
    """The path of the module of each; empty for none and for the model itself."""
    paths = [*paths_of_modules(trace), ""]
    return [paths[module] for module in sums["module"].tolist()]


def lines_of(trace: Trace, sums: Rows) -> list[str]:
    """The line of each, such as ``train.py:31``; empty where it is not known."""
    return lines_of_stacks(trace, sums["stack"])
