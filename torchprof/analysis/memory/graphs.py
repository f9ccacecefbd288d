"""Where autograd built a graph: without one, nothing is kept for backward."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from torchprof.trace.schema import Rows
from torchprof.trace.trace import Trace

__all__ = ["built_graph", "node_creators"]

Ints = npt.NDArray[np.int64]


def node_creators(trace: Trace) -> Ints:
    """The rows of ``trace.ops`` that created a node of autograd.

    An op has the number that its node gets if it creates one; the next number comes after the node. So of the ops of a thread
    with one number, it is the last one that created the node. Whether a node has the largest number cannot be told from the
    numbers: it is assumed where some parameter is trained, or no model is known.
    """
    ops = trace.ops
    rows = np.flatnonzero((ops["sequence_nr"] >= 0) & (ops["forward_thread"] == 0))
    order = np.lexsort((ops["sequence_nr"][rows], ops["thread"][rows]))
    rows = rows[order]
    if not len(rows):
        return rows
    thread, number = ops["thread"][rows], ops["sequence_nr"][rows]
    ends_thread = np.append(thread[1:] != thread[:-1], True)
    ends_number = np.append(number[1:] != number[:-1], True) | ends_thread
    created: Ints = rows[ends_number & (~ends_thread | _trains(trace))]
    return created


def _trains(trace: Trace) -> bool:
    return trace.model is None or any(tensor.trainable for module in trace.model.modules for tensor in module.parameters)


def built_graph(trace: Trace, allocations: Rows) -> npt.NDArray[np.bool_]:
    """For which of these allocations of forward a node was created meanwhile, or may have been where the call is not known.

    Meanwhile is from the outermost op around the allocation to the end of the outermost module call or, without one, of that
    op.
    """
    calls, ops = trace.module_calls, trace.ops
    known = allocations["module_call"] < len(calls)
    call = _outermost(calls, np.where(known, allocations["module_call"], -1))
    op = _outermost(ops, allocations["op"])
    begin, end = allocations["start"].copy(), allocations["start"].copy()
    begin[op >= 0] = ops["start"][op[op >= 0]]
    end[op >= 0] = ops["end"][op[op >= 0]]
    end[call >= 0] = calls["end"][call[call >= 0]]
    end[end < 0] = np.iinfo(np.int64).max  # the recording ended first
    created = node_creators(trace)
    found = ~known
    for thread in np.unique(allocations["thread"]):
        times = np.sort(ops["start"][created[ops["thread"][created] == thread]])
        rows = allocations["thread"] == thread
        found[rows] |= np.searchsorted(times, begin[rows]) < np.searchsorted(times, end[rows], side="right")
    return found


def _outermost(table: Rows, rows: Rows) -> Ints:
    """The outermost rows around these rows of a table with ``parent``; -1 for none."""
    found = rows.astype(np.int64)
    left = np.flatnonzero(found >= 0)
    while len(left):
        parent = table["parent"][found[left]]
        left, parent = left[parent >= 0], parent[parent >= 0]
        found[left] = parent
    return found
