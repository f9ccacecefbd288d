"""The collectives of a trace: what was asked for, by what, how large it was, and how long it ran.

A collective is the innermost op that asks for one: ``c10d::allreduce_``, whether `DistributedDataParallel` calls it, FSDP, or
``_c10d_functional::all_reduce`` for a DTensor. It ran when kernels of NCCL or RCCL ran that it launched; over gloo, when a
thread of gloo had a range open for it. Ranges do not say of which op they are: each is of the first that waits for one, of its
kind and of its size, in the order in which both began.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from torchprof.analysis.distributed.bandwidth import group_size_told, size_of
from torchprof.analysis.distributed.collective_names import RANGES, is_collective_kernel, kind_of, kind_of_short
from torchprof.analysis.distributed.groups import group_of, group_of_wrapper, size_of_all, told_group, what_was_given
from torchprof.analysis.lines.where import lines_of_ops
from torchprof.analysis.lookups import modules_of_calls
from torchprof.analysis.model.module_tree import paths_of_modules
from torchprof.analysis.remembered import remembered
from torchprof.analysis.spans import durations
from torchprof.analysis.steps import active_steps, step_of
from torchprof.trace.schema import Rows
from torchprof.trace.trace import Trace

__all__ = ["Collective", "Found", "collectives_of"]

Ints = npt.NDArray[np.int64]

FSDP: Final = "FSDP::"
WAIT: Final = "_c10d_functional::wait_tensor"
ITEM_SIZES: Final = {
    **dict.fromkeys(("Double", "Long", "ComplexFloat"), 8),
    **dict.fromkeys(("Float", "Int"), 4),
    **dict.fromkeys(("Half", "BFloat16", "Short"), 2),
    **dict.fromkeys(("Byte", "Char", "Bool", "Float8_e4m3fn", "Float8_e5m2"), 1),
}
"""Bytes of an element, as files of torch.profiler name its dtype."""


@dataclass(frozen=True, slots=True)
class Collective:
    """One collective that a rank asked for. What is not known is None.

    Attributes:
        op: the row of the op.
        kind: ``"all-reduce"``, ``"all-gather"``, ...
        by: ``"FSDP"``, ``"DDP"`` (its reducer, and its broadcasts), ``"functional"`` (DTensor, compiled code, functional
            collectives), or empty.
        module: path of the module that it served: of FSDP that of the group of parameters, of DDP that which it wraps; empty
            for none, and where the model was not given.
        line: of the program; empty where none is known.
        group: the process group, as tables call it.
        group_name: PyTorch's name for it.
        members: the ranks of that group; None: see `members_of`.
        peer, tag: of a message, the rank that it is sent to or received from, and its tag.
        ranks: how many ranks took part.
        bytes: of the whole that is reduced, gathered, scattered or exchanged.
        asked: nanoseconds of the op on the host.
        waited: nanoseconds for which the host waited for it in ``wait_tensor``.
        ran: nanoseconds for which it ran: from when this rank began until all was done.
        entered, left: when it began to run, and when it was done.
        unfinished: whether it still ran when the recording ended, as its thread was seen: for how long is not known then.
    """

    op: int
    kind: str
    by: str
    module: str
    line: str
    group: str | None
    ranks: int | None
    bytes: int | None
    asked: int
    waited: int | None
    ran: int | None
    entered: int | None = None
    left: int | None = None
    unfinished: bool = False
    group_name: str | None = None
    members: tuple[int, ...] | None = None
    peer: int | None = None
    tag: int | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """When a collective ran: with several kernels, from the start of the first to the end of the last, and their sum."""

    start: int
    end: int
    time: int


@dataclass(frozen=True, slots=True)
class Found:
    """The collectives of the active steps, in the order of their ops; and how many kernels of collectives are of no op."""

    collectives: tuple[Collective, ...]
    kernels_of_none: int


@remembered
def collectives_of(trace: Trace) -> Found:
    """The collectives in the active steps of a trace with single ops."""
    ops, names = trace.ops, trace.op_names
    if not len(ops) and not len(trace.kernels):
        return Found((), 0)
    kinds = [kind_of(name) for name in trace.strings]
    is_kind = np.array([bool(kind) for kind in kinds], dtype=np.bool_)
    asks = is_kind[names] if len(is_kind) else np.zeros(len(ops), dtype=np.bool_)
    asks = asks & ~_has_below(asks, ops["parent"])
    told = _told_by_file(trace, asks)
    for row in told:
        asks[row] = True
    rows = np.flatnonzero(asks)
    rows = rows[np.argsort(ops["start"][rows], kind="stable")]
    ran, none = _of_kernels(trace, asks)
    of_threads, unfinished = _of_ranges(trace, rows, kinds)
    ran |= of_threads
    waited = _waits(trace, rows)
    counted = rows[step_of(ops["start"][rows], trace, active_steps(trace)) >= 0]
    modules = modules_of_calls(trace, ops["module_call"][counted])
    lines, paths = lines_of_ops(trace, counted), paths_of_modules(trace)
    taken, found = durations(ops), []
    wrapper = _wrapper(trace)
    told_by_op = what_was_given(trace, counted)
    for row, module, line, of_op in zip(counted.tolist(), modules.tolist(), lines, told_by_op, strict=True):
        name, meta = trace.strings[names[row]], told.get(row, {})
        kind = kinds[names[row]] or kind_of_short(str(meta.get("name", "")))
        by, of_range = _asked_by(trace, names, row)
        if by == "DDP":  # whose buckets are of many modules
            of_range = wrapper
        given = _bytes_of(trace, ops["inputs"][row], ops["n_inputs"][row])
        run = ran.get(row)
        told_size = _whole(meta.get("group_size")) or group_size_told(name, given)
        own = told_group(trace.facts, of_op.group, meta, told_size)
        if own is None:
            own = group_of_wrapper(trace.facts, by, kind, of_range or "")
        of_group = len(own.members) if own is not None and own.members is not None else None
        size = told_size or of_group or (size_of_all(trace.facts) if own is None else None)
        found.append(
            Collective(
                op=row,
                kind=kind,
                by=by,
                module=of_range if of_range is not None else paths[module] if module >= 0 else "",
                line=line,
                group=own.label if own is not None else group_of(trace.facts, size),
                group_name=own.name if own is not None else None,
                members=own.members if own is not None else None,
                peer=of_op.other_rank(name, own),
                tag=of_op.tag(name),
                ranks=size,
                bytes=_bytes_told(meta, kind) if meta else size_of(kind, name, given, size),
                asked=int(taken[row]),
                waited=waited.get(row),
                ran=run.time if run is not None else None,
                entered=run.start if run is not None else None,
                left=run.end if run is not None else None,
                unfinished=row in unfinished,
            )
        )
    return Found(tuple(found), none)


def _has_below(asks: npt.NDArray[np.bool_], parent: Rows) -> npt.NDArray[np.bool_]:
    """Which ops have one that asks inside."""
    found = np.zeros(len(asks), dtype=np.bool_)
    at = parent[asks]
    while len(at := np.unique(at[at >= 0])):
        at = at[~found[at]]
        found[at] = True
        at = parent[at]
    return found


def _nearest(rows: Ints, stops: npt.NDArray[np.bool_], parent: Rows) -> Ints:
    """For each of these ops, itself or the nearest around it at which to stop; -1 for none."""
    at = rows.astype(np.int64).copy()
    left = np.flatnonzero(at >= 0)
    while len(left := left[at[left] >= 0]):
        left = left[~stops[at[left]]]
        at[left] = parent[at[left]]
    return at


def _told_by_file(trace: Trace, asks: npt.NDArray[np.bool_]) -> dict[int, dict[str, Any]]:
    """What a file of torch.profiler says of collectives, by the op that asks, or by the op itself where there is none."""
    told = [each for each in trace.facts.get("collectives", ()) if each.get("table") == "ops"]
    rows = np.array([int(each["row"]) for each in told], dtype=np.int64)
    known = (rows >= 0) & (rows < len(trace.ops))
    around = _nearest(np.where(known, rows, -1), asks, trace.ops["parent"])
    return {
        at if at >= 0 else row: each
        for row, at, each, is_known in zip(rows.tolist(), around.tolist(), told, known.tolist(), strict=True)
        if is_known and kind_of_short(str(each.get("name", "")))
    }


def _of_kernels(trace: Trace, asks: npt.NDArray[np.bool_]) -> tuple[dict[int, Run], int]:
    """The runs of the kernels that each of these ops launched, and how many kernels of collectives none of them did."""
    sends = np.array([is_collective_kernel(name) for name in trace.strings], dtype=np.bool_)
    kernels = trace.kernels[sends[trace.kernels["name"]]] if len(sends) else trace.kernels[:0]
    of = _nearest(kernels["op"], asks, trace.ops["parent"])
    ran: dict[int, Run] = {}
    for row, start, end in zip(of.tolist(), kernels["start"].tolist(), kernels["end"].tolist(), strict=True):
        if row >= 0 and end > start:
            before = ran.get(row, Run(start, end, 0))
            ran[row] = Run(min(before.start, start), max(before.end, end), before.time + end - start)
    return ran, int((of < 0).sum())


def _of_ranges(trace: Trace, rows: Ints, kinds: list[str]) -> tuple[dict[int, Run], set[int]]:
    """The range of gloo that is of each of these ops, which are in the order in which they began.

    Also the ops whose range had no end yet: gloo's thread says that the work is done before it ends the range.
    """
    ops, names = trace.ops, trace.op_names
    is_range = np.array([name in RANGES for name in trace.strings], dtype=np.bool_)
    ranges = np.flatnonzero(is_range[names]) if len(is_range) else np.zeros(0, dtype=np.int64)
    ranges = ranges[np.argsort(ops["start"][ranges], kind="stable")]
    waiting: deque[int] = deque()
    coming = deque(rows.tolist())
    ran: dict[int, Run] = {}
    unfinished: set[int] = set()
    for row in ranges.tolist():
        start, end, fits = int(ops["start"][row]), int(ops["end"][row]), RANGES[trace.strings[names[row]]]
        while coming and ops["start"][coming[0]] <= start:
            waiting.append(coming.popleft())
        sizes = _bytes_of(trace, ops["inputs"][row], ops["n_inputs"][row])[:1]
        for op in waiting:
            given = _bytes_of(trace, ops["inputs"][op], ops["n_inputs"][op])
            if kinds[names[op]] in fits and (not sizes or sizes[0] in given):
                if end < 0:
                    unfinished.add(op)
                else:
                    ran[op] = Run(start, end, end - start)
                waiting.remove(op)
                break
    return ran, unfinished


def _waits(trace: Trace, rows: Ints) -> dict[int, int]:
    """How long the host waited in ``wait_tensor`` for what each of these ops returned or wrote to."""
    is_wait = np.array([name == WAIT for name in trace.strings], dtype=np.bool_)
    if not is_wait.any():
        return {}
    waits = np.flatnonzero(is_wait[trace.op_names])
    names = trace.op_names
    latest: dict[int, int] = {}
    found: dict[int, int] = {}
    for row in np.sort(np.concatenate([rows, waits])).tolist():
        op = trace.ops[row]
        first, count = int(op["inputs"]), int(op["n_inputs"])
        if is_wait[names[row]]:
            for storage in _storages(trace, first, count):
                if storage in latest and op["end"] >= 0:
                    of = latest[storage]
                    found[of] = found.get(of, 0) + int(op["end"] - op["start"])
        else:
            written = _storages(trace, first, count) | _storages(trace, int(op["outputs"]), int(op["n_outputs"]))
            latest |= dict.fromkeys(written, row)
    return found


def _storages(trace: Trace, first: int, count: int) -> set[int]:
    found: set[int] = set(trace.tensors["storage"][trace.operands[first : first + count]].tolist())
    return found - {0}


def _asked_by(trace: Trace, names: Rows, row: int) -> tuple[str, str | None]:
    """What asked for the collective, and the module that a range of FSDP names. ``names`` are those of all ops."""
    parent = trace.ops["parent"]
    is_functional = trace.strings[names[row]].startswith("_c10d_functional")
    at = int(parent[row])
    while at >= 0:
        name = trace.strings[names[at]]
        if name.startswith(FSDP):
            return "FSDP", name.rpartition(" (")[2][:-1] if name.endswith(")") else None
        if name.endswith("AccumulateGrad") or name.startswith("DistributedDataParallel"):
            return "DDP", None
        is_functional |= name.startswith("_c10d_functional")
        at = int(parent[at])
    return "functional" if is_functional else "", None


def _wrapper(trace: Trace) -> str:
    """The path of what `DistributedDataParallel` wraps; empty where there is none, or there are several."""
    modules = trace.model.modules if trace.model is not None else ()
    paths = [info.path for info in modules if info.type == "DistributedDataParallel"]
    return f"{paths[0]}.module".removeprefix(".") if len(paths) == 1 else ""


def _bytes_of(trace: Trace, first: int, count: int) -> list[int]:
    """The bytes of the tensors of an op: those that their shapes say."""
    rows = trace.operands[int(first) : int(first) + int(count)].tolist()
    return [_bytes(trace, row) for row in rows]


def _bytes(trace: Trace, row: int) -> int:
    tensor = trace.tensors[row]
    dtype = trace.dtypes.get(int(tensor["dtype"]))
    sizes = trace.shape(int(tensor["shape"]))
    if dtype is None or dtype.itemsize is None or not all(isinstance(size, int) for size in sizes):
        return -1
    return int(np.prod(np.array(sizes, dtype=np.int64))) * dtype.itemsize


def _bytes_told(meta: Mapping[str, Any], kind: str) -> int | None:
    """The bytes of the whole, as a file of torch.profiler says."""
    elements = [_whole(meta.get(name)) for name in ("in_elements", "out_elements")]
    size = ITEM_SIZES.get(str(meta.get("dtype")))
    known = [count for count in elements if count is not None]
    return 0 if kind == "barrier" else max(known) * size if known and size is not None else None


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
