"""A Python loop takes a tensor apart by its index, and works on one piece after another."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from torchprof.advice.finding import Finding
from torchprof.advice.loop import Loop, loop_of
from torchprof.advice.ops_of import are_counted, called_by_python, check_ops, host_time, input_tensors, output_tensors
from torchprof.advice.places import per_step
from torchprof.advice.registry import rule
from torchprof.advice.uses_of import storages_of
from torchprof.analysis.autograd import forward_and_backward_ops
from torchprof.analysis.gpu.gaps import covered
from torchprof.analysis.groups import Groups
from torchprof.analysis.lines.where import lines_of_ops, most_first
from torchprof.analysis.spans import latest_before
from torchprof.analysis.steps import active_steps, step_of
from torchprof.analysis.tensors import tensor_shape
from torchprof.rendering.units import format_ns
from torchprof.trace.schema import Phase, phases
from torchprof.trace.trace import Trace
from torchprof.wording import counted

__all__ = ["index_loops"]

Ints = npt.NDArray[np.int64]

INDEXES: Final = ("aten::select", "aten::index", "aten::index_select", "aten::narrow", "aten::slice")
"""What ``x[i]``, ``x[:, i:j]`` and the like call."""
UNBIND: Final = "aten::unbind"
"""What ``for row in x`` calls, once."""
PROGRAM: Final = (Phase.FORWARD, Phase.RECOMPUTATION, Phase.OTHER)
MANY: Final = 16
"""Passes of a loop below which it is as good as written out: channels, heads and small kernels are that many."""
FEW: Final = 30
"""Ops that Python calls in a pass, above which it is a program of its own, such as a layer."""
SMALL: Final = 100_000
"""Nanoseconds of most ops, above which it has enough to do: what a loop costs is the price of calling small ops."""
BREAK: Final = 10
"""A pass that took so many times as long as the median is none: the loop had ended, and began again later."""


@dataclass(frozen=True, slots=True)
class _Passes:
    """The passes of one loop in one step: the ops that began them, and when each began and ended."""

    first: int
    count: int
    ops: float
    start: Ints
    end: Ints


@rule("for loops over indices of a tensor")
def index_loops(trace: Trace) -> Iterator[Finding]:
    """Many ops that take a piece of one tensor on one line, in the same step and module, with few small ops between."""
    check_ops(trace)
    loop = loop_of(trace)
    called = called_by_python(trace)
    called = called[np.isin(phases(trace.ops)[called], PROGRAM)]
    found = list(_loops(trace, called))
    if not found:
        return
    host = sum(_covered_by_thread(trace, found))
    backward = _backward(trace, found)
    passes = sum(each.count for each in found)
    # Of all passes of a loop, one is left: that which does all at once.
    part = 1 - len(found) / passes
    high = part * (host + backward) / loop.steps
    if loop.is_small(high):
        return
    lines = lines_of_ops(trace, np.array([each.first for each in found]))
    times = [int((each.end - each.start).sum()) for each in found]
    yield Finding(
        "index_loops",
        f"Loops over indices of tensors take {format_ns(round((host + backward) / loop.steps))} of {loop.a_step}: "
        f"{per_step(passes, loop, 'pass', 'passes')}",
        "Where one pass does not need another, take all pieces in one op: broadcasting, gather and index_add, bmm, torch.vmap. "
        "Where it does, take one op for the loop (cumsum, nn.LSTM), or compile it.",
        "https://docs.pytorch.org/docs/stable/generated/torch.vmap.html",
        # At least nothing: what the one op takes is not known.
        loop.worth(high, "the time of the loops and of their backward, but for one pass"),
        lines=tuple(most_first(zip(lines, times, strict=True))),
        details=_details(trace, loop, found, lines, times),
    )


def _loops(trace: Trace, called: Ints) -> Iterator[_Passes]:
    """Loops in active steps.

    Args:
        called: what the program called, by thread and in order of time.
    """
    rows, tensor = _indexing(trace, called)
    if not len(rows):
        return
    ops = trace.ops
    groups = Groups.by(
        [
            step_of(ops["start"][rows], trace, active_steps(trace)),
            ops["thread"][rows],
            ops["module_call"][rows],
            trace.op_stacks[rows] if len(trace.stacks) else np.zeros(len(rows), dtype=np.int64),
            ops["signature"][rows],  # where addresses are not known, shapes tell tensors apart
            np.unique(storages_of(trace, tensor), return_inverse=True)[1],
        ]
    )
    times = host_time(trace, called)
    order = np.argsort(groups.of, kind="stable")
    bounds = np.append(0, np.cumsum(groups.count))
    for group in np.flatnonzero(groups.count >= MANY).tolist():
        own = rows[order[bounds[group] : bounds[group + 1]]]
        at = np.searchsorted(called, own)
        start = ops["start"][own].astype(np.int64)
        length = np.diff(start)
        typical = int(np.median(length))
        if np.median(np.diff(at)) > FEW or np.median(times[at[0] : at[-1] + 1]) > SMALL:
            continue
        goes_on = np.append(length <= BREAK * typical, True)
        if int(goes_on.sum()) < MANY:
            continue
        end = np.append(start[1:], start[-1] + typical)
        yield _Passes(int(own[0]), int(goes_on.sum()), float(np.median(np.diff(at))), start[goes_on], end[goes_on])


def _indexing(trace: Trace, called: Ints) -> tuple[Ints, Ints]:
    """The ops that take a piece of a tensor, or read one that was made before; and the row of the tensor."""
    names = trace.op_names[called]
    wanted = [row for row, name in enumerate(trace.strings) if name in INDEXES]
    indexes = called[np.isin(names, wanted)]
    parts = [(indexes, input_tensors(trace, indexes, 0))]
    unbinds = called[np.isin(names, [row for row, name in enumerate(trace.strings) if name == UNBIND])]
    unbinds = unbinds[trace.ops["n_outputs"][unbinds] >= MANY]
    if len(unbinds):
        pieces = np.unique(output_tensors(trace, unbinds))
        for place in (0, 1):
            read = input_tensors(trace, called, place)
            mine = np.isin(read, pieces[pieces >= 0])
            parts.append((called[mine], read[mine]))
    rows, tensor = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    order = np.unique(rows, return_index=True)[1]
    return rows[order], tensor[order]


def _covered_by_thread(trace: Trace, found: list[_Passes]) -> Iterator[int]:
    """Nanoseconds in which any loop ran, of each thread: loops in loops count once."""
    by_thread: dict[int, list[_Passes]] = {}
    for each in found:
        by_thread.setdefault(int(trace.ops["thread"][each.first]), []).append(each)
    for loops in by_thread.values():
        yield covered(np.concatenate([each.start for each in loops]), np.concatenate([each.end for each in loops]))


def _backward(trace: Trace, found: list[_Passes]) -> int:
    """Nanoseconds of nodes that differentiate what ran in the loops."""
    forward, nodes = forward_and_backward_ops(trace)
    own = are_counted(trace)[nodes]
    forward, nodes = forward[own], nodes[own]
    inside = np.zeros(len(forward), dtype=np.bool_)
    start, thread = trace.ops["start"][forward], trace.ops["thread"][forward]
    for each in found:
        mine = thread == trace.ops["thread"][each.first]
        at = latest_before(each.start, start)
        inside |= mine & (at >= 0) & (start < each.end[at])
    return int(host_time(trace, nodes[inside]).sum())


def _details(trace: Trace, loop: Loop, found: list[_Passes], lines: list[str], times: list[int]) -> tuple[str, ...]:
    """``train.py:31 aten::select of [64, 128]: 64 passes a step, of 3 ops, 1.20 ms``, the longest first."""
    sums: dict[tuple[str, str], list[float]] = {}
    for each, line, time in zip(found, lines, times, strict=True):
        tensor = int(input_tensors(trace, np.array([each.first]), 0)[0])
        name = trace.strings[int(trace.op_names[each.first])]
        of = f"{name} of {list(shape)}" if tensor >= 0 and not isinstance(shape := tensor_shape(trace, tensor), str) else name
        total = sums.setdefault((line, of), [0, 0, each.ops])
        total[0] += each.count
        total[1] += time
    longest = sorted(sums.items(), key=lambda item: -item[1][1])
    return tuple(
        f"{line + ' ' if line else ''}{of}: {per_step(count, loop, 'pass', 'passes')}, of {counted(round(ops), 'op')}, "
        f"{format_ns(round(time / loop.steps))}"
        for (line, of), (count, time, ops) in longest
    )
