"""The account of devices: how busy they were, why they were not, what was copied, and who waited for them.

Everything is summed over the active steps. The span of a device is the time from the start of its first kernel of these steps
to the end of its last; what else it ran meanwhile counts as busy. Kernels without known times are counted and take no time.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from torchprof.analysis.gpu.gaps import CAUSES, Gaps, gaps_between, split_gaps, waiting_calls
from torchprof.analysis.gpu.kernel_records import DIRECTIONS, IN_GRAPH, NO_OP
from torchprof.analysis.gpu.kernels import device_name, kernel_steps, kernel_times, watched, why_unwatched
from torchprof.analysis.groups import Groups
from torchprof.analysis.model.module_tree import module_labels
from torchprof.analysis.steps import active_steps, step_of
from torchprof.analysis.time.breakdown import module_records
from torchprof.analysis.time.calls import modules_of_calls, names_of_ops
from torchprof.errors import ArgumentError
from torchprof.trace.schema import Activity, Rows, RuntimeCallKind
from torchprof.trace.trace import Trace

__all__ = ["Copies", "Device", "GpuAccount", "Graphs", "Idle", "LaunchBound", "Stream", "Waits"]

Ints = npt.NDArray[np.int64]
FUNCTION: Final = 0  # Op.scope of a call of the dispatcher


@dataclass(frozen=True, slots=True)
class Stream:
    """One stream of a device: how many kernels it ran, and the nanoseconds in which it ran any."""

    number: int
    kernels: int
    busy: int


@dataclass(frozen=True, slots=True)
class Device:
    """One device.

    Attributes:
        name: as in ``cuda:0``.
        kernels: kernels, copies and fills of the active steps.
        start, span: when the first of them started, and nanoseconds from then to the end of the last.
        busy: nanoseconds of the span in which any stream ran anything.
        idle: the rest, by cause: see ``torchprof.analysis.gpu.gaps``.
        streams: its streams.
    """

    name: str
    kernels: int
    start: int
    span: int
    busy: int
    idle: dict[str, int]
    streams: tuple[Stream, ...]


@dataclass(frozen=True, slots=True)
class Idle:
    """Idle time of one cause at one place.

    Attributes:
        cause: of ``CAUSES``.
        module, op: those of the kernel that started late; of synchronization, those of the wait.
        gaps, time: how many gaps, and nanoseconds.
    """

    cause: str
    module: str
    op: str
    gaps: int
    time: int


@dataclass(frozen=True, slots=True)
class Copies:
    """Copies of one direction for one module: how many, bytes, and nanoseconds of the device."""

    direction: str
    module: str
    count: int
    bytes: int
    time: int


@dataclass(frozen=True, slots=True)
class Waits:
    """Waits of the host for a device at one place.

    Attributes:
        op: the outermost op that it waited in, such as ``aten::item``; ``(no op)`` where there is none.
        inner: the innermost, such as ``aten::_local_scalar_dense``.
        module: for which module.
        call: the runtime call.
        count, time: how many, and nanoseconds of the host.
    """

    op: str
    inner: str
    module: str
    call: str
    count: int
    time: int


@dataclass(frozen=True, slots=True)
class Graphs:
    """CUDA graphs: launches, those of which no kernel was seen, the kernels that they ran, and nanoseconds of these.

    CUPTI may not see into a graph that was captured during an earlier recording.
    """

    launches: int
    unseen: int
    kernels: int
    time: int


@dataclass(frozen=True, slots=True)
class LaunchBound:
    """A module whose kernels take less time of the device than the host needs to ask for them; without what is below it.

    Attributes:
        host: nanoseconds of the host in the module's own code and ops, without waits.
        device: nanoseconds of the device in kernels that they asked for.
    """

    module: str
    host: int
    device: int


@dataclass(frozen=True)
class GpuAccount:
    """What devices did. Made by `GpuAccount.of`."""

    trace: Trace

    @classmethod
    def of(cls, trace: Trace) -> Self:
        """Account for the devices of a trace.

        Raises:
            ArgumentError: no device was watched, or the trace keeps sums only.
        """
        if trace.facts.get("aggregate"):
            raise ArgumentError(
                "trace was recorded with aggregate=True: single kernels were folded away, and gaps between them with them; "
                "by_kernel, by_module and by_op have their sums, and a recording without aggregate has the account"
            )
        if watched(trace) == "off":
            raise ArgumentError(why_unwatched(trace))
        return cls(trace)

    @cached_property
    def devices(self) -> list[Device]:
        """Every device that worked for an active step."""
        return [device for device, _ in self._devices_and_gaps]

    @cached_property
    def idle(self) -> list[Idle]:
        """Idle time of all devices by cause and place, most first; it adds up to that of the devices."""
        if not self._devices_and_gaps:
            return []
        all_gaps = [gaps for _, gaps in self._devices_and_gaps]
        parts = np.concatenate([gaps.parts for gaps in all_gaps], axis=1)
        kernel, wait = (np.concatenate([getattr(gaps, name) for gaps in all_gaps]) for name in ("kernel", "wait"))
        trace = self.trace
        modules, ops = self._kernel_places
        waited_in = trace.runtime_calls[wait[parts[1] > 0]]
        places = [
            (modules[kernel[parts[0] > 0]], ops[kernel[parts[0] > 0]]),
            (modules_of_calls(trace, waited_in["module_call"]), names_of_ops(self.trace, waited_in["op"])),
            (modules[kernel[parts[2] > 0]], ops[kernel[parts[2] > 0]]),
        ]
        found = []
        for cause, (module, op), time in zip(CAUSES, places, parts, strict=True):
            groups = Groups.by([module, op])
            spent = groups.sums(time[time > 0])
            for first, count, total in zip(groups.first.tolist(), groups.count.tolist(), spent.tolist(), strict=True):
                found.append(Idle(cause, self._labels[module[first]], self._name(int(op[first])), count, total))
        return sorted(found, key=lambda idle: -idle.time)

    @cached_property
    def copies(self) -> list[Copies]:
        """Copies by direction and module, most time first."""
        rows = np.flatnonzero(self._counted & (self.trace.kernels["kind"] == Activity.COPY))
        copies, module = self.trace.kernels[rows], self._kernel_places[0][rows]
        groups = Groups.by([copies["direction"], module])
        time, moved = groups.sums(kernel_times(copies)), groups.sums(copies["bytes"])
        found = []
        for at, first in enumerate(groups.first.tolist()):
            direction = DIRECTIONS.get(int(copies["direction"][first]), "") or "elsewhere"
            found.append(Copies(direction, self._labels[module[first]], int(groups.count[at]), int(moved[at]), int(time[at])))
        return sorted(found, key=lambda copies: -copies.time)

    @cached_property
    def waits(self) -> list[Waits]:
        """Runtime calls in which the host waited for a device, by op and module, most time first."""
        trace = self.trace
        rows = waiting_calls(trace)
        calls = trace.runtime_calls[rows]
        calls = calls[step_of(calls["start"], trace, active_steps(trace)) >= 0]
        inner = calls["op"].astype(np.int64)
        outer_name, inner_name = names_of_ops(trace, self._outermost(inner)), names_of_ops(trace, inner)
        module = modules_of_calls(trace, calls["module_call"])
        groups = Groups.by([outer_name, inner_name, module, calls["name"]])
        time = groups.sums(calls["end"] - calls["start"])
        found = []
        for at, first in enumerate(groups.first.tolist()):
            outermost, innermost = (self._name(int(name[first])) for name in (outer_name, inner_name))
            call = trace.strings[int(calls["name"][first])]
            found.append(Waits(outermost, innermost, self._labels[module[first]], call, int(groups.count[at]), int(time[at])))
        return sorted(found, key=lambda waits: -waits.time)

    @cached_property
    def graphs(self) -> Graphs:
        """Launches of CUDA graphs, and what they ran."""
        trace = self.trace
        calls = np.flatnonzero(trace.runtime_calls["kind"] == RuntimeCallKind.GRAPH_LAUNCH)
        calls = calls[step_of(trace.runtime_calls["start"][calls], trace, active_steps(trace)) >= 0]
        unseen = int((~np.isin(calls, trace.kernels["runtime_call"])).sum())
        nodes = trace.kernels[self._counted & (trace.kernels["graph"] != 0)]
        return Graphs(len(calls), unseen, len(nodes), int(kernel_times(nodes).sum()))

    @cached_property
    def launch_bound(self) -> list[LaunchBound]:
        """Modules whose kernels take less time than the host needs to ask for them, by how much."""
        steps = max(1, len(active_steps(self.trace)))
        waited: dict[str, int] = {}
        for wait in self.waits:
            waited[wait.module] = waited.get(wait.module, 0) + wait.time
        found = []
        for record in module_records(self.trace):
            module = record["path"] or record["name"]
            device = round(record.get("device_self", 0) * steps)
            host = round(record["self"] * steps) - waited.get(module, 0)
            if 0 < device < host:
                found.append(LaunchBound(module, host, device))
        return sorted(found, key=lambda bound: bound.device - bound.host)

    @cached_property
    def _counted(self) -> npt.NDArray[np.bool_]:
        counted: npt.NDArray[np.bool_] = kernel_steps(self.trace, active_steps(self.trace)) >= 0
        return counted

    @cached_property
    def _labels(self) -> list[str]:
        return module_labels(self.trace)

    @cached_property
    def _kernel_places(self) -> tuple[Ints, Ints]:
        """Of every kernel, the rows of its module and of the name of its op; -1 for none, -2 for that of a CUDA graph."""
        kernels = self.trace.kernels
        op = np.where((kernels["op"] < 0) & (kernels["graph"] != 0), -2, names_of_ops(self.trace, kernels["op"]))
        return modules_of_calls(self.trace, kernels["module_call"]), op

    def _name(self, row: int) -> str:
        return self.trace.strings[row] if row >= 0 else NO_OP if row == -1 else IN_GRAPH

    def _outermost(self, op: Ints) -> Ints:
        """The outermost call of the dispatcher that each op ran in: what the program called."""
        parent, scope = self.trace.ops["parent"], self.trace.ops["scope"]
        while True:
            above = np.append(parent.astype(np.int64), -1)[op]
            climbs = (above >= 0) & (np.append(scope, 255)[above] == FUNCTION)
            if not climbs.any():
                return op
            op = np.where(climbs, above, op)

    @cached_property
    def _devices_and_gaps(self) -> list[tuple[Device, Gaps]]:
        kernels = self.trace.kernels
        time = kernel_times(kernels)
        counted = np.flatnonzero(self._counted)
        groups = Groups.by([kernels["device_type"][counted], kernels["device_index"][counted]])
        found = []
        for at, first in enumerate(counted[groups.first].tolist()):
            device_type, index = int(kernels["device_type"][first]), int(kernels["device_index"][first])
            mine = counted[groups.of == at]
            timed = mine[time[mine] > 0]
            if not len(timed):
                continue
            begin, end = int(kernels["start"][timed].min()), int(kernels["end"][timed].max())
            here = (kernels["device_type"] == device_type) & (kernels["device_index"] == index) & (time > 0)
            rows = np.flatnonzero(here & (kernels["end"] > begin) & (kernels["start"] < end))
            starts, ends = np.maximum(kernels["start"][rows], begin), np.minimum(kernels["end"][rows], end)
            gap_starts, gap_ends, late = gaps_between(starts, ends)
            gaps = split_gaps(self.trace, gap_starts, gap_ends, rows[late])
            idle = {cause: int(part.sum()) for cause, part in zip(CAUSES, gaps.parts, strict=True)}
            name, span = device_name(device_type, index), end - begin
            streams = _streams(kernels["stream"][mine], kernels["stream"][rows], starts, ends)
            found.append((Device(name, len(mine), begin, span, span - sum(idle.values()), idle, streams), gaps))
        return found


def _streams(of_kernels: Rows, of_intervals: Rows, starts: Ints, ends: Ints) -> tuple[Stream, ...]:
    """The streams of a device: of all kernels that count, and of the intervals in which any ran."""
    streams = []
    for number, count in zip(*np.unique(of_kernels, return_counts=True), strict=True):
        ran = of_intervals == number
        streams.append(Stream(int(number), int(count), _covered(starts[ran], ends[ran])))
    return tuple(streams)


def _covered(start: Ints, end: Ints) -> int:
    """Nanoseconds in which any of these intervals is."""
    if not len(start):
        return 0
    gap_starts, gap_ends, _ = gaps_between(start, end)
    return int(end.max() - start.min() - (gap_ends - gap_starts).sum())
