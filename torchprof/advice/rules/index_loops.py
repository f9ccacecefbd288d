"""A Python loop takes a tensor apart by its index, and works on one piece after another."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from torchprof.advice.finding import Finding
from torchprof.advice.loop import Loop, loop_of
from torchprof.advice.ops_of import (
    are_counted,
    called_by_python,
    check_ops,
    device_time,
    host_time,
    input_tensors,
    output_tensors,
)
from torchprof.advice.places import per_step
from torchprof.advice.registry import rule
from torchprof.advice.uses_of import storages_of
from torchprof.analysis.autograd import forward_and_backward_ops
from torchprof.analysis.gpu.gaps import gaps_between
from torchprof.analysis.gpu.op_kernels import kernels_of_ops
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
"""So many times as many ops as in most passes are none of a pass: the loop had ended, and began again later."""


@dataclass(frozen=True, slots=True)
class _Loops:
    """Places in one step of the loop of training at which loops ran, once or several times.

    Attributes:
        first: of each place the op that began its first pass.
        loops, passes, ops: how many loops, how many passes in all of them, and how many ops Python called in most passes.
        of: the place of each pass.
        start, end: when each pass began and ended.
    """

    first: Ints
    loops: Ints
    passes: Ints
    ops: Ints
    of: Ints
    start: Ints
    end: Ints


@rule("for loops over indices of a tensor")
def index_loops(trace: Trace) -> Iterator[Finding]:
    """Many ops that take a piece of one tensor on one line, in the same step and module, with few small ops between."""
    check_ops(trace)
    loop = loop_of(trace)
    called = called_by_python(trace)
    called = called[np.isin(phases(trace.ops)[called], PROGRAM)]
    loops = _loops(trace, called)
    if loops is None:
        return
    times = np.bincount(loops.of, weights=loops.end - loops.start)
    took, device = (sum(times) for times in zip(*_time_and_backward(trace, loops), strict=True))
    passes = int(loops.passes.sum())
    # Of all passes of a loop, one is left: that which does all at once.
    part = (1 - int(loops.loops.sum()) / passes) / loop.steps
    high = loop.most_saved(part * max(took, device), part * device)
    if loop.is_small(high):
        return
    lines = lines_of_ops(trace, loops.first)
    yield Finding(
        "index_loops",
        f"Loops over indices of tensors take {format_ns(round(took / loop.steps))} of {loop.a_step}: "
        f"{per_step(passes, loop, 'pass', 'passes')}",
        "Where one pass does not need another, take all pieces in one op: broadcasting, gather and index_add, bmm, torch.vmap. "
        "Where it does, take one op for the loop (cumsum, nn.LSTM), or compile it.",
        "https://docs.pytorch.org/docs/stable/generated/torch.vmap.html",
        # At least nothing: what the one op takes is not known.
        loop.worth(high, "the time of the loops and of their backward, but for one pass"),
        lines=tuple(most_first(zip(lines, times.tolist(), strict=True))),
        details=_details(trace, loop, loops, lines, times.tolist()),
    )


def _loops(trace: Trace, called: Ints) -> _Loops | None:
    """Loops in active steps; None where there are none.

    Args:
        called: what the program called, by thread and in order of time.
    """
    rows, tensor = _indexing(trace, called)
    if not len(rows):
        return None
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
    kept = np.flatnonzero(groups.count[groups.of] >= MANY)
    kept = kept[np.argsort(groups.of[kept], kind="stable")]
    if not len(kept):
        return None
    rows, of = rows[kept], np.unique(groups.of[kept], return_inverse=True)[1]
    at, start = np.searchsorted(called, rows), ops["start"][rows].astype(np.int64)
    is_last = np.append(of[1:] != of[:-1], True)
    between, length = np.diff(at, append=0), np.diff(start, append=0)
    usual_ops, usual_length = (_medians(values[~is_last], of[~is_last]) for values in (between, length))
    first, last = np.flatnonzero(np.append(True, is_last[:-1])), np.flatnonzero(is_last)
    small = np.append(0, np.cumsum(host_time(trace, called) <= SMALL))
    are_small = 2 * (small[at[last] + 1] - small[at[first]]) >= at[last] + 1 - at[first]
    ends = is_last | (between > BREAK * usual_ops[of])
    passes, loops = np.bincount(of), np.bincount(of, weights=ends).astype(np.int64)
    is_loop = (usual_ops <= FEW) & are_small & (passes >= MANY * loops)
    if not is_loop.any():
        return None
    end = start + np.where(ends, usual_length[of], length)
    mine = is_loop[of]
    return _Loops(
        rows[first[is_loop]],
        loops[is_loop],
        passes[is_loop],
        usual_ops[is_loop],
        (np.cumsum(is_loop) - 1)[of[mine]],
        start[mine],
        end[mine],
    )


def _medians(values: Ints, of: Ints) -> Ints:
    """The lower median of the values of each group; every group has some."""
    order = np.lexsort((values, of))
    count = np.bincount(of)
    first = np.append(0, np.cumsum(count)[:-1])
    found: Ints = values[order][first + (count - 1) // 2]
    return found


def _indexing(trace: Trace, called: Ints) -> tuple[Ints, Ints]:
    """The ops that take a piece of a tensor, or read one that was made before; and the row of the tensor."""
    names = trace.op_names[called]
    wanted = [row for row, name in enumerate(trace.strings) if name in INDEXES]
    indexes = called[np.isin(names, wanted)]
    parts = [(indexes, input_tensors(trace, indexes, 0))]
    unbinds = called[np.isin(names, [row for row, name in enumerate(trace.strings) if name == UNBIND])]
    unbinds = unbinds[trace.ops["n_outputs"][unbinds] >= MANY]
    if len(unbinds):
        pieces = np.unique(_memory_and_shape(trace, output_tensors(trace, unbinds)))
        for place in (0, 1):
            read = input_tensors(trace, called, place)
            mine = (read >= 0) & np.isin(_memory_and_shape(trace, read), pieces)
            parts.append((called[mine], read[mine]))
    rows, tensor = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    order = np.unique(rows, return_index=True)[1]
    return rows[order], tensor[order]


def _memory_and_shape(trace: Trace, tensors: Ints) -> Ints:
    """A number that is the same for tensors of one shape in one memory; for these rows. One tensor may have several rows."""
    found = trace.tensors[tensors]
    return (found["storage"] >> np.uint64(4) << np.uint64(20)).astype(np.int64) | found["shape"].astype(np.int64)


def _time_and_backward(trace: Trace, loops: _Loops) -> Iterator[tuple[int, int]]:
    """Nanoseconds in which any loop ran, as loops in loops count once, and of nodes that differentiate what ran in them.

    Of the host, and of the kernels that these launched.
    """
    forward, nodes = forward_and_backward_ops(trace)
    own = are_counted(trace)[nodes]
    forward, nodes = forward[own], nodes[own]
    begun, on = trace.ops["start"][forward], trace.ops["thread"][forward]
    threads = trace.ops["thread"][loops.first][loops.of]
    for thread in np.unique(threads):
        mine = threads == thread
        start, end = loops.start[mine], loops.end[mine]
        gap_starts, gap_ends, _ = gaps_between(start, end)
        starts, ends = np.append(start.min(), gap_ends), np.append(gap_starts, end.max())
        at = latest_before(starts, begun)
        inside = (on == thread) & (at >= 0) & (begun < ends[at])
        begun_at = trace.ops["start"][trace.ops["thread"] == thread]
        in_loop = latest_before(starts, begun_at)
        is_in_loop = (in_loop >= 0) & (begun_at < ends[in_loop])
        launched = kernels_of_ops(trace)[0][trace.ops["thread"] == thread][is_in_loop] if len(trace.kernels) else starts[:0]
        yield int((ends - starts).sum()), int(launched.sum())
        yield int(host_time(trace, nodes[inside]).sum()), int(device_time(trace, nodes[inside]).sum())


def _details(trace: Trace, loop: Loop, loops: _Loops, lines: list[str], times: list[float]) -> tuple[str, ...]:
    """``train.py:31 aten::select of [64, 128]: 64 passes a step, of 3 ops, 1.20 ms``, the longest first."""
    tensors, names = input_tensors(trace, loops.first, 0).tolist(), trace.op_names[loops.first].tolist()
    sums: dict[tuple[str, str], list[float]] = {}
    columns = zip(tensors, names, lines, loops.passes.tolist(), times, loops.ops.tolist(), strict=True)
    for tensor, name, line, count, time, ops in columns:
        shape = tensor_shape(trace, tensor) if tensor >= 0 else ""
        of = f"{trace.strings[name]} of {list(shape)}" if not isinstance(shape, str) else trace.strings[name]
        total = sums.setdefault((line, of), [0, 0, ops])
        total[0] += count
        total[1] += time
    longest = sorted(sums.items(), key=lambda item: -item[1][1])
    return tuple(
        f"{line + ' ' if line else ''}{of}: {per_step(count, loop, 'pass', 'passes')}, of {counted(round(ops), 'op')}, "
        f"{format_ns(round(time / loop.steps))}"
        for (line, of), (count, time, ops) in longest
    )
