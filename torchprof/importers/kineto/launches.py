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

from torchprof.importers.kineto.columns import Ints, at, field
from torchprof.importers.kineto.freed import give_back
from torchprof.importers.kineto.nesting import Nesting, open_at, parts
from torchprof.importers.kineto.numbers import NONE
from torchprof.importers.kineto.read_events import CALL_KIND, KERNEL_KIND, Kind
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

__all__ = ["CUDA", "Launches", "clock_error", "find_by_id", "kernels_of"]

Arrays = dict[str, npt.NDArray[Any]]

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
        kind: for each, the row of the list of kinds.
        kinds: that list.
    """

    def __init__(self, columns: Arrays, kinds: list[Kind], names: list[str], launching: Ints) -> None:
        """
        Args:
            columns: of calls, which are taken over. Those are kept that launch, copy, fill, wait or manage memory.
            launching: the correlations of all kernels: a call with one of these launched it, whatever its name.
        """
        self.kinds = kinds
        of_names = np.array([kind_of(names[name]) for name in field(kinds, CALL_KIND, "name").tolist()], dtype=np.uint8)
        does = of_names[columns["kind"]] if kinds else np.zeros(0, dtype=np.uint8)
        launches = np.isin(columns["correlation"], launching) & (columns["correlation"] > 0)
        does = np.where((does == NOT_RECORDED) & launches, np.uint8(RuntimeCallKind.LAUNCH), does)
        kept = np.flatnonzero(does != NOT_RECORDED)
        kept = kept[np.lexsort((kept, -columns["end"][kept], columns["start"][kept]))]
        self.kind, self.correlation = columns.pop("kind")[kept], columns.pop("correlation")[kept]
        self.thread = field(kinds, CALL_KIND, "thread")[self.kind]
        inner = _inside_others(self.correlation, self.thread, columns["end"][kept])
        kept, self.kind, self.correlation, self.thread = (
            values[~inner] for values in (kept, self.kind, self.correlation, self.thread)
        )
        calls = self.calls = np.zeros(len(kept), dtype=LAYOUTS["runtime_calls"])
        calls["start"], calls["end"], calls["kind"] = columns.pop("start")[kept], columns.pop("end")[kept], does[kept]
        calls["name"] = field(kinds, CALL_KIND, "name")[self.kind]
        calls["correlation"] = self.correlation & 0xFFFFFFFF
        calls["op"] = calls["module_call"] = -1
        calls["thread"] = NO_THREAD
        give_back()

    def attribute(self, ops: Rows, module_calls: Rows, nesting: Nesting, thread_rows: dict[int, int]) -> None:
        """Find the op and module call of every call.

        Args:
            thread_rows: the row of a thread in the trace by its row in the file, of threads that ran ops or modules.
        """
        calls = self.calls
        for of_file, thread in thread_rows.items():
            mine = np.flatnonzero(self.thread == of_file)
            for part in parts(len(mine)):
                rows = mine[part]
                calls["thread"][rows] = thread
                calls["op"][rows] = open_at(ops, nesting.op_parent, thread, calls["start"][rows])
                calls["module_call"][rows] = open_at(module_calls, nesting.call_parent, thread, calls["start"][rows])
        for part in parts(len(calls)):
            _fill_phases(calls[part], ops, module_calls)

    def of(self, correlation: Ints, start: Ints, in_graph: Ints) -> Ints:
        """The call that launched kernels with these correlations and starts; -1: none is in the file.

        A number that was used again stands for the latest call before the kernel. A node of a graph whose number is not known
        is of the latest launch of a graph before it: some versions of CUDA number these wrongly.
        """
        kind, launched_at = self.calls["kind"], self.calls["start"]
        launches = np.flatnonzero((kind != RuntimeCallKind.SYNCHRONIZE) & (kind != RuntimeCallKind.MEMORY))
        launches = launches[self.correlation[launches] > 0]
        launches = launches[np.argsort(self.correlation[launches], kind="stable")]  # of one number, by start
        found = _latest(self.correlation[launches], launched_at[launches], correlation, start)
        found = at(launches, found)
        graphs = np.flatnonzero(kind == RuntimeCallKind.GRAPH_LAUNCH)
        lost = np.flatnonzero((found < 0) & in_graph)
        found[lost] = at(graphs, np.searchsorted(launched_at[graphs], start[lost], side="right") - 1)
        return found


def _fill_phases(calls: Rows, ops: Rows, module_calls: Rows) -> None:
    """Take phase and module call from the op and the module call that these calls were made in."""
    op, call = calls["op"], calls["module_call"]
    # A module that was called inside the op is nearer than the one that the op is attributed to.
    by_op = (op >= 0) & ~((call >= 0) & (at(module_calls["start"], call) >= at(ops["start"], op, 0)))
    of_op = np.where(op >= 0, phases(ops[op]), 0) if len(ops) else np.zeros(len(op), dtype=np.uint8)
    of_call = (
        np.where(call >= 0, phases_of_calls(module_calls[call]), int(Phase.OTHER)) if len(module_calls) else int(Phase.OTHER)
    )
    calls["phase"] = np.where(by_op, of_op, of_call)
    calls["module_call"] = np.where(by_op, at(ops["module_call"], op), call)


def _latest(numbers: Ints, times: Ints, wanted: Ints, before: Ints) -> Ints:
    """The last row with each of these numbers whose time is not later, or else its first; -1 where there is none.

    Args:
        numbers, times: in order of number and time.
    """
    if not len(numbers):
        return np.full(len(wanted), -1, dtype=np.int64)
    first = np.minimum(np.searchsorted(numbers, wanted), len(numbers) - 1).astype(np.int32)
    found = np.where(numbers[first] == wanted, first, np.int32(-1))
    again = numbers[np.minimum(first + 1, len(numbers) - 1)] == wanted
    again &= first + 1 < len(numbers)
    rows = np.flatnonzero(again)  # nearly no number is used twice
    if len(rows):
        found[rows] = _latest_of_several(numbers, times, wanted[rows], before[rows])
    return found


def _latest_of_several(numbers: Ints, times: Ints, wanted: Ints, before: Ints) -> Ints:
    """The same, of numbers that are all there."""
    # All together in order of number and time: a row is found among those that stand before what looks for it.
    order = np.lexsort((np.arange(len(numbers) + len(wanted)), np.append(times, before), np.append(numbers, wanted)))
    last = np.maximum.accumulate(np.where(order < len(numbers), order, -1))
    found = np.empty(len(numbers) + len(wanted), dtype=np.int64)
    found[order] = last
    found = found[len(numbers) :]
    return np.maximum(found, np.searchsorted(numbers, wanted))


def _inside_others(correlation: Ints, thread: Ints, end: Ints) -> Ints:
    """Which calls, in order of start, are of the driver inside one of the runtime: both may report a launch, by one number."""
    order = np.lexsort((np.arange(len(end)), thread, correlation))
    found = np.zeros(len(end), dtype=np.bool_)
    same = (np.diff(correlation[order]) == 0) & (np.diff(thread[order]) == 0) & (correlation[order][1:] > 0)
    found[order[1:]] = same & (end[order][1:] <= end[order][:-1])
    return found


def kernels_of(columns: Arrays, kinds: list[Kind], names: list[str], launches: Launches) -> tuple[Rows, Ints, Ints]:
    """The table of kernels, in order of their start; for each the ``External id`` of its op, and its row in the file.

    Args:
        columns: which are taken over.
    """
    order = np.argsort(columns["start"], kind="stable").astype(np.int32)
    kernels = np.zeros(len(order), dtype=LAYOUTS["kernels"])
    kernels["start"], kernels["end"] = columns.pop("start")[order], columns.pop("end")[order]
    kind = columns.pop("kind")[order]
    give_back()
    of_kinds = {name: field(kinds, KERNEL_KIND, name) for name in KERNEL_KIND}
    of_kinds |= {"device_index": of_kinds.pop("device"), "bytes": np.maximum(of_kinds["bytes"], 0)}
    is_copy = of_kinds["kind"] == Activity.COPY
    directions = [direction_of(names[name]) for name in of_kinds["name"].tolist()]
    of_kinds["direction"] = np.where(is_copy, np.array(directions, dtype=np.int64), 0)
    if kinds:
        for name, of_kind in of_kinds.items():
            kernels[name] = of_kind.astype(kernels[name].dtype)[kind]
    kernels["device_type"] = CUDA
    give_back()
    correlation, external = columns.pop("correlation")[order], columns.pop("external_id")[order]
    call = kernels["runtime_call"] = launches.of(correlation, kernels["start"], kernels["graph"] != 0)
    for name in ("op", "module_call"):
        kernels[name] = at(launches.calls[name], call)
    kernels["phase"] = at(launches.calls["phase"], call, 0)
    does = at(launches.calls["kind"], call, NOT_RECORDED)
    kernels["graph"][(does == RuntimeCallKind.GRAPH_LAUNCH) & (kernels["graph"] == 0)] = UNKNOWN_GRAPH
    _fill_from_launches(kernels, launches, call)
    if np.array_equal(external, correlation):  # in files of 2022 it is no more than that
        external[:] = NONE
    return kernels, external, order


def _fill_from_launches(kernels: Rows, launches: Launches, call: Ints) -> None:
    """Take what the file has only beside the launch, as that of HIP."""
    if not launches.kinds:
        return
    kind = at(launches.kind, call, 0)
    plain = (call >= 0) & (kernels["graph"] == 0)
    lacks = np.flatnonzero(plain & (kernels["kind"] == Activity.KERNEL) & ~kernels["grid"].any(axis=1))
    for name in ("grid", "block", "shared_memory"):
        kernels[name][lacks] = field(launches.kinds, CALL_KIND, name)[kind[lacks]]
    lacks = np.flatnonzero(plain & (kernels["kind"] != Activity.KERNEL) & (kernels["bytes"] == 0))
    kernels["bytes"][lacks] = np.maximum(field(launches.kinds, CALL_KIND, "bytes"), 0)[kind[lacks]]


def find_by_id(kernels: Rows, external: Ints, ops: Rows, external_id: Ints) -> int:
    """Give kernels whose launch tells no op the one that their ``External id`` names, and its module call and phase.

    Args:
        external: the id of every kernel.
        external_id: of every op.

    Returns:
        How many ops have the id of another one: of these, kernels belong to the first.
    """
    rows = np.flatnonzero((kernels["op"] < 0) & (external >= 0))
    wanted = np.unique(external[rows])
    if len(wanted):
        at = np.minimum(np.searchsorted(wanted, external_id), len(wanted) - 1)
        named = np.flatnonzero(wanted[at] == external_id)[::-1]
        first = np.full(len(wanted), -1, dtype=np.int64)
        first[at[named]] = named  # of several, the first is the last that is written
        op = first[np.searchsorted(wanted, external[rows])]
        rows, op = rows[op >= 0], op[op >= 0]
        kernels["op"][rows], kernels["module_call"][rows] = op, ops["module_call"][op]
        kernels["phase"][rows] = phases(ops)[op]
    ids = np.sort(external_id)
    return int(((np.diff(ids) == 0) & (ids[1:] >= 0)).sum())


def clock_error(kernels: Rows, runtime_calls: Rows) -> int:
    """The longest time by which a kernel seems to begin before its launch: the clocks are off by at least as much."""
    launched = np.flatnonzero(kernels["runtime_call"] >= 0)
    called = runtime_calls["start"][kernels["runtime_call"][launched]]
    return max(0, int((called - kernels["start"][launched]).max(initial=0)))
