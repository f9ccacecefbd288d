"""When a rank computed: spans of kernels that are not of collectives or, on the CPU, of innermost ops of any thread."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from torchprof.analysis.distributed.collective_names import is_collective_kernel, is_collective_op, is_collective_range
from torchprof.analysis.gpu.backend import has_kernels
from torchprof.analysis.remembered import remembered
from torchprof.analysis.spans import closed_ends
from torchprof.trace.schema import SCOPE_FUNCTION, Rows, phases
from torchprof.trace.trace import Trace

__all__ = ["Computing", "computing_of", "named_rows", "on_cpu"]

Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Computing:
    """What a rank computed, in order of its starts. One value for every span, in nanoseconds of the trace.

    Attributes:
        start, end: when it ran.
        phase: in which `Phase`.
        asked: when the op began that asked for it; of what is of no op, when it ran.
    """

    start: Ints
    end: Ints
    phase: Ints
    asked: Ints


@remembered
def computing_of(trace: Trace) -> Computing:
    """What the rank of a trace with single ops computed."""
    ops = trace.ops
    if has_kernels(trace):
        kernels = trace.kernels[~named_rows(trace, trace.kernels["name"], is_collective_kernel)]
        op = kernels["op"].astype(np.int64)
        asked = np.where(op >= 0, np.append(ops["start"], 0)[op], kernels["start"])
        found = kernels["start"], kernels["end"], kernels["phase"], asked
    else:
        rows = on_cpu(trace)[0]
        found = ops["start"][rows], closed_ends(trace, ops)[rows], phases(ops)[rows], ops["start"][rows]
    order = np.argsort(found[0], kind="stable")
    return Computing(*(column[order].astype(np.int64) for column in found))


def on_cpu(trace: Trace) -> tuple[Mask, Mask]:
    """Which ops compute, and which are open while a collective runs."""
    ops, parent = trace.ops, trace.ops["parent"]
    communicates = named_rows(trace, trace.op_names, is_collective_range)
    sends = communicates | named_rows(trace, trace.op_names, is_collective_op)
    below = sends.copy()
    while (more := (parent >= 0) & below[parent] & ~below).any():  # down one level at a time
        below |= more
    innermost = np.ones(len(ops), dtype=np.bool_)
    innermost[parent[parent >= 0]] = False
    return (ops["scope"] == SCOPE_FUNCTION) & innermost & ~below, communicates


def named_rows(trace: Trace, names: Rows, test: Callable[[str], bool]) -> Mask:
    """Of which rows the name, a row of ``trace.strings``, passes the test."""
    found = np.array([test(name) for name in trace.strings], dtype=np.bool_)
    return found[names] if len(found) else np.zeros(len(names), dtype=np.bool_)
