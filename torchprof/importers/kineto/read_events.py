"""Events by kind: which are ops, module calls, kernels, runtime calls and memory, and what of each is kept."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from torchprof.importers.kineto.columns import Columns, Ints, Numbered
from torchprof.importers.kineto.event import NO_ARGS, Event, EventArgs, PlainEvent
from torchprof.importers.kineto.frames import Frames
from torchprof.importers.kineto.numbers import NONE, integer, integers, nanoseconds
from torchprof.trace.schema import Activity

__all__ = ["CALL_KIND", "CATEGORIES", "KERNEL_KIND", "MODULE", "OP_KIND", "Events", "Kind", "OpArguments"]

STEP: Final = "ProfilerStep#"
MODULE: Final = "nn.Module: "
MEMORY: Final = "[memory]"
MOST_SHOWN: Final = 40
CPU: Final = 0
LAST_DEVICE: Final = 127
"""The largest number of a device or of a type of devices that a trace has room for."""
CATEGORIES: Final = {"cpu_op": 0, "user_annotation": 1, "Operator": 2}
"""Of ops. In files of 2021 there is one for all, which says nothing."""

OpArguments = tuple[bytes, bytes, bytes]
"""``Input Dims``, ``Input type`` and ``Concrete Inputs``, as JSON."""
Kind = tuple[Any, ...]
Record = dict[str, Any]
OP_KIND: Final = ("name", "thread", "forward_thread", "arguments", "category")
KERNEL_KIND: Final = ("name", "kind", "device", "stream", "bytes", "grid", "block", "registers", "shared_memory", "graph")
CALL_KIND: Final = ("name", "thread", "grid", "block", "shared_memory", "bytes")

_ASKS: Final = re.compile(
    r"(?<!Graph)(?:Get|Set|Query|Peek|Create|Destroy|Occupancy|IsCapturing|Capture|Attribute|WaitEvent|EventRecord|Property)"
)
"""Calls that neither launch, copy, fill, wait nor manage memory: most of a file."""

_IGNORED: Final = frozenset(
    {None, "", "ac2g", "async_cpu_to_gpu", "async", "async_gpu", "fwdbwd", "forward_backward", "Trace", "gpu_user_annotation"}
)
"""Categories that say nothing more: arrows between events, and the recording itself."""


class Events:
    """What was read of a file, by kind of event.

    What many events have in common, such as the name, is kept once: their column ``kind`` has the row of it in a list.

    Attributes:
        ops, kernels, runtime_calls: columns, each with the list of their kinds: `OP_KIND`, `KERNEL_KIND`, `CALL_KIND`.
        calls, memory: columns.
        totals: of the allocator of a device, by row of memory. The CPU's has none.
        steps: ``(number, start, end, thread)`` of each.
        names, arguments, threads: what is referred to by its row; a thread is its process and its own number.
        collectives: metadata of collectives, by table and row in the file.
        left_out: events of other kinds, by category.
        unreadable: events without a time or a name.
        no_device: kernels whose device has no number that can be.
        odd: events that are no objects, or whose arguments are none.
        backwards: events that end before they begin.
        frames: functions of Python that are no modules.
    """

    def __init__(self) -> None:
        self.ops = Columns(start="i8", end="i8", external_id="i8", sequence_nr="i8", kind="i4")
        self.kernels = Columns(start="i8", end="i8", correlation="i8", external_id="i8", kind="i4")
        self.runtime_calls = Columns(start="i8", end="i8", correlation="i8", kind="i4")
        self.calls = Columns(start="i8", end="i8", name="i4", thread="i4")
        self.memory = Columns(time="i8", thread="i4", address="i8", bytes="i8", device_type="i4", device_index="i4")
        self.totals = Columns(event="i4", allocated="i8", reserved="i8")
        self.op_kinds, self.kernel_kinds, self.call_kinds = Numbered[Kind](), Numbered[Kind](), Numbered[Kind]()
        self.steps: list[tuple[int, int, int, int]] = []
        self.names = Numbered[str]()
        self.arguments = Numbered[OpArguments]()
        self.threads = Numbered[tuple[int, int]]()
        self.collectives: dict[str, dict[int, Record]] = {"ops": {}, "kernels": {}}
        self.left_out: Counter[str] = Counter()
        self.unreadable = self.backwards = self.odd = self.no_device = 0
        self.frames = Frames(self._ops_since)
        self._threads: dict[Any, int] = {}
        self._does_nothing: dict[str, bool] = {}
        self._handlers: dict[Any, Callable[[Event], None]] = {
            **dict.fromkeys(("cpu_op", "Operator", "user_annotation"), self._op),
            **dict.fromkeys(("cpu_instant_event", None, ""), self._instant),
            "python_function": self._python,
            "Runtime": self._runtime_call,
            **dict.fromkeys(("kernel", "Kernel", "concurrent_kernel"), lambda event: self._kernel(event, Activity.KERNEL)),
            **dict.fromkeys(("gpu_memcpy", "Memcpy"), lambda event: self._kernel(event, Activity.COPY)),
            **dict.fromkeys(("gpu_memset", "Memset"), lambda event: self._kernel(event, Activity.MEMSET)),
        }
        for family in ("cuda", "hip", "xpu", "mtia", "privateuse1"):
            self._handlers |= dict.fromkeys((f"{family}_runtime", f"{family}_driver"), self._runtime_call)

    def __bool__(self) -> bool:
        """Whether any event is of torch.profiler."""
        kinds = (self.ops, self.calls, self.kernels, self.runtime_calls, self.memory, self.steps)
        return any(len(kind) > 0 for kind in kinds) or self.frames.count > 0

    def add(self, events: list[Event]) -> None:
        """Keep what is known of these events."""
        handlers = self._handlers
        if events and type(events[0]) is PlainEvent:
            self.odd += sum(event.is_odd for event in events)
        for event in events:
            try:
                handler = handlers.get(event.cat)
            except TypeError:  # a category that is no text
                handler = None
            if handler is not None:
                handler(event)
            elif not _is_ignored(event.cat):
                self.left_out[str(event.cat)[:MOST_SHOWN]] += 1
        for columns in (self.ops, self.calls, self.kernels, self.runtime_calls, self.memory, self.totals):
            columns.close_block()

    def _span(self, event: Event) -> tuple[int, int] | None:
        """Start and end; None where the event has none, or no name."""
        start, took = nanoseconds(event.ts), nanoseconds(event.dur)
        if start is None or took is None or type(event.name) is not str or event.ph != "X":
            self.unreadable += 1
            return None
        if took < 0:
            self.backwards += 1
            took = 0
        return start, start + took

    def thread(self, process: Any, thread: Any) -> int:
        """The row of a thread."""
        try:
            found = self._threads.get((process, thread))
        except TypeError:
            process = thread = found = None
        if found is None:
            found = self._threads[process, thread] = self.threads.row((integer(process), integer(thread)))
        return found

    def _op(self, event: Event) -> None:
        if (span := self._span(event)) is None:
            return
        args = event.args or NO_ARGS
        thread = self.thread(event.pid, event.tid)
        if event.name.startswith(STEP):
            self.steps.append((integer(event.name[len(STEP) :], 0), *span, thread))
            return
        if args.collective is not None:
            self.collectives["ops"][len(self.ops)] = _collective(args)
        arguments = self.arguments.row((bytes(args.dims), bytes(args.types), bytes(args.values)))
        forward_thread = integer(args.forward_thread, 0)
        kind = self.op_kinds.row((self.names.row(event.name), thread, forward_thread, arguments, CATEGORIES[event.cat]))
        self.ops.append(*span, integer(args.external_id), integer(args.sequence_nr), kind)

    def _python(self, event: Event) -> None:
        if (span := self._span(event)) is None:
            return
        if event.name.startswith(MODULE):
            self.calls.append(*span, self.names.row(event.name[len(MODULE) :]), self.thread(event.pid, event.tid))
        else:
            self.frames.add(*span, event.name, self.thread(event.pid, event.tid))

    def _ops_since(self, first: int) -> tuple[Ints, Ints]:
        """Starts and threads of the ops from this row on."""
        kind = self.ops.copy("kind", first)
        if not len(kind):
            return kind, kind
        at = OP_KIND.index("thread")
        threads = np.fromiter((row[at] for row in self.op_kinds.rows), dtype=np.int64, count=len(self.op_kinds.rows))
        return self.ops.copy("start", first), threads[kind]

    def _kernel(self, event: Event, activity: Activity) -> None:
        if (span := self._span(event)) is None:
            return
        args = event.args or NO_ARGS
        external = args.external_id if args.external_id is not None else args.old_external_id
        if args.collective is not None:
            self.collectives["kernels"][len(self.kernels)] = _collective(args)
        kind = (
            self.names.row(event.name),
            int(activity),
            self._device(args.device, event.pid),
            _first(2**32 - 1, args.stream, event.tid, 0),
            integer(args.bytes, integer(args.size)),
            integers(args.grid, 3, 2**32 - 1),
            integers(args.block, 3, 2**16 - 1),
            min(max(integer(args.registers, 0), 0), 2**16 - 1),
            min(max(integer(args.shared_memory, 0), 0), 2**32 - 1),
            max(integer(args.graph, 0), 0) & 0xFFFFFFFF,
        )
        self.kernels.append(*span, integer(args.correlation), integer(external), self.kernel_kinds.row(kind))

    def _device(self, device: Any, process: Any) -> int:
        """The number of a device, which is that of its process as well; 0, and counted, where neither can be."""
        found = _first(LAST_DEVICE, device, process, NONE)
        self.no_device += found == NONE
        return max(found, 0)

    def _runtime_call(self, event: Event) -> None:
        name = event.name
        does_nothing = self._does_nothing.get(name) if type(name) is str else None
        if does_nothing is None:
            does_nothing = self._does_nothing[str(name)] = bool(_ASKS.search(str(name)))
        if does_nothing or (span := self._span(event)) is None:
            return
        args = event.args or NO_ARGS
        kind = (
            self.names.row(name),
            self.thread(event.pid, event.tid),
            integers(args.grid, 3, 2**32 - 1),  # HIP has here what CUDA has at the kernel
            integers(args.block, 3, 2**16 - 1),
            min(max(integer(args.shared_memory, 0), 0), 2**32 - 1),
            integer(args.bytes, integer(args.size)),
        )
        self.runtime_calls.append(*span, integer(args.correlation), self.call_kinds.row(kind))

    def _instant(self, event: Event) -> None:
        if event.name != MEMORY or event.ph != "i":
            if event.cat:
                self.left_out[str(event.name)[:MOST_SHOWN]] += 1  # such as [OutOfMemory]
            return
        args = event.args or NO_ARGS
        time, count = nanoseconds(event.ts), integer(args.memory_bytes, 0)
        if time is None or not count:
            self.unreadable += 1
            return
        device_type = integer(args.device_type, CPU)
        device_type = device_type if CPU <= device_type <= LAST_DEVICE else LAST_DEVICE  # which is said to be unknown
        allocated, reserved = integer(args.allocated), integer(args.reserved)
        if device_type != CPU and allocated >= 0 and reserved > 0:
            self.totals.append(len(self.memory), allocated, reserved)
        thread, index = self.thread(event.pid, event.tid), _first(LAST_DEVICE, args.device_index, NONE)
        self.memory.append(time, thread, integer(args.address), count, device_type, index)


def _first(most: int, *values: Any) -> int:
    """The first of these that is a number from 0 to the most that there is room for; the last one as it is."""
    numbers = (integer(value) for value in values[:-1])
    found: int = next((number for number in numbers if 0 <= number <= most), values[-1])
    return found


def _is_ignored(category: Any) -> bool:
    return type(category) is str and category in _IGNORED


def _collective(args: EventArgs) -> Record:
    """What the file says of a collective, as far as it does."""
    found = {
        "name": args.collective,
        "dtype": args.dtype,
        "in_elements": args.in_elements,
        "out_elements": args.out_elements,
        "group": args.group,
        "group_description": args.group_description,
        "group_size": args.group_size,
        "ranks": args.ranks,
    }
    return {name: value for name, value in found.items() if value is not None}
