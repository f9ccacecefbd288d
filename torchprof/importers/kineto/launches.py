"""Runtime calls and kernels, with what launched them.

runtime call  ── by its thread and time ──►  the op and module call that were open there and then
kernel        ── by its correlation ──►      the runtime call that launched it, and so that call's op and module call
              ── or by its External id ──►   the op, where the file has no launch
"""

from __future__ import annotations

import re
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from torchprof.importers.kineto.columns import Ints
from torchprof.importers.kineto.nesting import Nesting, open_at
from torchprof.trace.schema import (
    LAYOUTS,
    NO_THREAD,
    Activity,
    Direction,
    Phase,
    Rows,
    RuntimeCallKind,
    phases,
    phases_of_calls,
)

__all__ = ["CUDA", "Launches", "kernels_of"]

CUDA: Final = 1
"""The number of the device type of GPUs, which PyTorch calls CUDA on ROCm too."""
UNKNOWN_GRAPH: Final = 1
"""The number of a graph that the file does not number."""
NOT_RECORDED: Final = 255

_PREFIX: Final = re.compile(r"^_*(?:cuda|cu|hip|ze|xpu|mtia)_?", re.IGNORECASE)
_KINDS: Final = (
    (re.compile(r"Graph_?Launch", re.IGNORECASE), RuntimeCallKind.GRAPH_LAUNCH),
    (re.compile(r"LaunchHostFunc|LaunchAttribute", re.IGNORECASE), None),
    (re.compile(r"Launch", re.IGNORECASE), RuntimeCallKind.LAUNCH),
    (re.compile(r"Memcpy|CopyHostTo|CopyDeviceTo", re.IGNORECASE), RuntimeCallKind.COPY),
    (re.compile(r"Memset", re.IGNORECASE), RuntimeCallKind.MEMSET),
    (re.compile(r"Synchronize$", re.IGNORECASE), RuntimeCallKind.SYNCHRONIZE),
    (
        re.compile(
            r"^(?:Ext)?(?:Malloc|Free|Host(?:Alloc|Malloc|Free|Register|Unregister)|Mem(?:Alloc|Free|Create|Release|Map|Unmap))"
        ),
        RuntimeCallKind.MEMORY,
    ),
)
_DIRECTIONS: Final = {
    "HtoD": Direction.HOST_TO_DEVICE,
    "HostToDevice": Direction.HOST_TO_DEVICE,
    "DtoH": Direction.DEVICE_TO_HOST,
    "DeviceToHost": Direction.DEVICE_TO_HOST,
    "DtoD": Direction.ON_DEVICE,
    "DeviceToDevice": Direction.ON_DEVICE,
    "PtoP": Direction.BETWEEN_DEVICES,
}


def kind_of(name: str) -> int:
    """The `RuntimeCallKind` of a call with this name; ``NOT_RECORDED`` of one that does nothing of that kind."""
    name = _PREFIX.sub("", name)
    return next((NOT_RECORDED if kind is None else int(kind) for matches, kind in _KINDS if matches.search(name)), NOT_RECORDED)


def direction_of(name: str) -> int:
    """The `Direction` of a copy with this name, such as ``Memcpy HtoD (Pageable -> Device)``."""
    return next((int(direction) for word, direction in _DIRECTIONS.items() if word in name), int(Direction.OTHER))


class Launches:
    """Runtime calls, and what they launched.

    Attributes:
        calls: the table of runtime calls.
        launch: for each, the row of the list of grids, blocks, shared memory and bytes that the file has beside it.
        kinds: of calls by row of the names.
    """

    def __init__(self, columns: dict[str, npt.NDArray[Any]], names: list[str], launching: Ints) -> None:
        """
        Args:
            columns: of all calls in the file. Those are kept that launch, copy, fill, wait or manage memory.
            launching: the correlations of all kernels: a call with one of these launched it, whatever its name.
        """
        kinds = np.array([kind_of(name) for name in names], dtype=np.uint8)
        kind = kinds[columns["name"]]
        launches = np.isin(columns["correlation"], launching) & (columns["correlation"] > 0)
        kind = np.where((kind == NOT_RECORDED) & launches, np.uint8(RuntimeCallKind.LAUNCH), kind)
        kept = np.flatnonzero(kind != NOT_RECORDED)
        kept = kept[np.lexsort((kept, -columns["end"][kept], columns["start"][kept]))]
        kept = kept[~_repeated(columns, kept)]
        self.launch = columns["launch"][kept]
        self.correlation = columns["correlation"][kept]
        self.thread = columns["thread"][kept]
        calls = self.calls = np.zeros(len(kept), dtype=LAYOUTS["runtime_calls"])
        calls["start"], calls["end"], calls["name"] = (columns[name][kept] for name in ("start", "end", "name"))
        calls["correlation"] = self.correlation & 0xFFFFFFFF
        calls["kind"] = kind[kept]
        calls["op"] = calls["module_call"] = -1
        calls["thread"] = NO_THREAD

    def attribute(self, ops: Rows, module_calls: Rows, nesting: Nesting, thread_rows: dict[int, int]) -> None:
        """Find the op and module call of every call.

        Args:
            thread_rows: the row of a thread in the trace by its row in the file, of threads that ran ops or modules.
        """
        calls = self.calls
        for of_file, thread in thread_rows.items():
            rows = np.flatnonzero(self.thread == of_file)
            calls["thread"][rows] = thread
            calls["op"][rows] = open_at(ops, nesting.op_parent, thread, calls["start"][rows])
            calls["module_call"][rows] = open_at(module_calls, nesting.call_parent, thread, calls["start"][rows])
        op, call = calls["op"], calls["module_call"]
        # A module that was called inside the op is nearer than the one that the op is attributed to.
        starts = np.append(module_calls["start"], -1)[call]
        by_op = (op >= 0) & ~((call >= 0) & (starts >= np.append(ops["start"], 0)[op]))
        of_op, of_call = np.append(phases(ops), 0)[op], np.append(phases_of_calls(module_calls), int(Phase.OTHER))[call]
        calls["phase"] = np.where(by_op, of_op, of_call)
        calls["module_call"] = np.where(by_op, np.append(ops["module_call"], -1)[op], call)

    def of(self, correlation: Ints, start: Ints) -> Ints:
        """The call that launched kernels with these correlations and starts; -1: none is in the file.

        A number that was used again stands for the latest call before the kernel.
        """
        launches = np.flatnonzero(~np.isin(self.calls["kind"], [RuntimeCallKind.SYNCHRONIZE, RuntimeCallKind.MEMORY]))
        launches = launches[self.correlation[launches] > 0]
        launches = launches[np.argsort(self.correlation[launches], kind="stable")]  # of one number, by start
        numbers = self.correlation[launches]
        if not len(numbers):
            return np.full(len(correlation), -1, dtype=np.int64)
        first, last = np.searchsorted(numbers, correlation, side="left"), np.searchsorted(numbers, correlation, side="right")
        at = last - 1
        while (later := (at > first) & (self.calls["start"][launches[at]] > start)).any():
            at = np.where(later, at - 1, at)
        return np.where(first < last, launches[at], -1)


def _repeated(columns: dict[str, npt.NDArray[Any]], rows: Ints) -> npt.NDArray[np.bool_]:
    """Which calls are of the driver inside one of the runtime with the same number: both may report a launch."""
    correlation, thread, end = (columns[name][rows] for name in ("correlation", "thread", "end"))
    order = np.lexsort((np.arange(len(rows)), thread, correlation))
    found = np.zeros(len(rows), dtype=np.bool_)
    same = (np.diff(correlation[order]) == 0) & (np.diff(thread[order]) == 0) & (correlation[order][1:] > 0)
    found[order[1:]] = same & (end[order][1:] <= end[order][:-1])
    return found


def kernels_of(
    columns: dict[str, npt.NDArray[Any]], names: list[str], launches: Launches, shapes: list[tuple[Any, ...]], by_id: Ints
) -> tuple[Rows, Ints]:
    """The table of kernels, in order of their start, and for each its row in the file.

    Args:
        shapes: what HIP says of launches: grid, block, shared memory, bytes.
        by_id: for every kernel in the file the op that its ``External id`` names; -1: none.
    """
    order = np.argsort(columns["start"], kind="stable")
    kernels = np.zeros(len(order), dtype=LAYOUTS["kernels"])
    for name in ("start", "end", "name", "stream", "kind", "registers", "shared_memory", "graph"):
        kernels[name] = columns[name][order]
    kernels["bytes"] = np.maximum(columns["bytes"][order], 0)
    kernels["device_type"], kernels["device_index"] = CUDA, columns["device"][order]
    for axis, letter in enumerate("xyz"):
        kernels["grid"][:, axis] = columns[f"grid_{letter}"][order]
        kernels["block"][:, axis] = columns[f"block_{letter}"][order]
    directions = np.array([direction_of(name) for name in names] or [0], dtype=np.uint8)
    kernels["direction"] = np.where(kernels["kind"] == Activity.COPY, directions[kernels["name"]], 0)
    call = launches.of(columns["correlation"][order], kernels["start"])
    kernels["runtime_call"] = call
    for name in ("op", "module_call", "phase"):
        kernels[name] = np.append(launches.calls[name], np.zeros(1, launches.calls[name].dtype) - (name != "phase"))[call]
    kernels["op"] = np.where((call < 0) & (by_id[order] >= 0), by_id[order], kernels["op"])
    kind = np.append(launches.calls["kind"], NOT_RECORDED)[call]
    in_graph = (kind == RuntimeCallKind.GRAPH_LAUNCH) & (kernels["graph"] == 0)
    kernels["graph"] = np.where(in_graph, UNKNOWN_GRAPH, kernels["graph"])
    _fill_from_launches(kernels, launches, call, shapes)
    return kernels, order


def _fill_from_launches(kernels: Rows, launches: Launches, call: Ints, shapes: list[tuple[Any, ...]]) -> None:
    """Take what the file has only beside the launch, as that of HIP."""
    if not shapes:
        return
    row = np.append(launches.launch, 0)[call]
    plain = (call >= 0) & (kernels["graph"] == 0)
    grids, blocks = np.array([shape[0] for shape in shapes]), np.array([shape[1] for shape in shapes])
    shared, moved = np.array([max(0, shape[2]) for shape in shapes]), np.array([max(0, shape[3]) for shape in shapes])
    lacks = plain & (kernels["kind"] == Activity.KERNEL) & ~kernels["grid"].any(axis=1)
    kernels["grid"] = np.where(lacks[:, np.newaxis], grids[row], kernels["grid"])
    kernels["block"] = np.where(lacks[:, np.newaxis], blocks[row], kernels["block"])
    kernels["shared_memory"] = np.where(lacks, np.minimum(shared[row], 2**32 - 1), kernels["shared_memory"])
    lacks = plain & (kernels["kind"] != Activity.KERNEL) & (kernels["bytes"] == 0)
    kernels["bytes"] = np.where(lacks, moved[row], kernels["bytes"])
