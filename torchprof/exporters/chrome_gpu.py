"""Devices as events of a timeline: a process for each device, with a track for each of its streams."""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt

from torchprof.analysis.device_names import device_name
from torchprof.analysis.gpu.copies import DIRECTIONS
from torchprof.analysis.gpu.kernel_names import short_name
from torchprof.analysis.gpu.kernels import kernel_times
from torchprof.analysis.groups import Groups
from torchprof.analysis.lookups import modules_of_calls, names_of_ops
from torchprof.analysis.model.module_tree import paths_of_modules
from torchprof.exporters.trace_events import FIRST_THREAD, chunks, complete, microseconds
from torchprof.trace.schema import NO_THREAD, Activity, Phase
from torchprof.trace.trace import Trace

__all__ = ["gpu_events"]

Ints = npt.NDArray[np.int64]

FIRST_DEVICE: Final = 2
"""The process of the first device; process 1 is the program."""
FIRST_ARROW: Final = 2**31
"""The number of the first launch arrow. Viewers tell arrows apart by number, and those of backward are numbered from 0."""
DETAILS: Final = ("grid", "block", "registers", "shared_memory", "bytes", "direction", "graph")
CATEGORIES: Final = {int(kind): kind.name.lower() for kind in Activity}


def gpu_events(trace: Trace, op_ends: Ints) -> Iterator[list[str]]:
    """Runtime calls on the tracks of their threads, kernels on the tracks of their streams, and arrows between them.

    Args:
        op_ends: the end of every op as it is drawn. A runtime call is drawn inside its op, even where the clocks disagree.
    """
    calls, kernels = trace.runtime_calls, trace.kernels
    if not len(calls) and not len(kernels):
        return
    starts = np.maximum(kernels["start"], 0)  # the timeline starts with the recording
    ends = np.maximum(np.where(kernel_times(kernels) > 0, kernels["end"], 0), starts)
    pid, tid, names = _tracks(trace, starts, ends)
    yield names
    call_starts, call_ends = _inside_ops(trace, op_ends)
    call_track, names = _call_tracks(trace, call_starts, call_ends)
    yield names
    yield from _calls(trace, call_track, call_starts, call_ends)
    yield from _kernels(trace, pid, tid, starts, ends)
    yield from _arrows(trace, call_track, call_starts, pid, tid, starts)


def _tracks(trace: Trace, starts: Ints, ends: Ints) -> tuple[Ints, Ints, list[str]]:
    """The process and track of every kernel, and the events that name them. What overlaps on a stream gets more tracks."""
    kernels = trace.kernels
    devices = Groups.by([kernels["device_type"], kernels["device_index"]])
    streams = Groups.by([devices.of, kernels["stream"]])
    tid = np.zeros(len(kernels), dtype=np.int64)
    events, used = [], 1  # thread 0 is the idle task of the operating system
    for at, first in enumerate(devices.first.tolist()):
        device_type, index = int(kernels["device_type"][first]), int(kernels["device_index"][first])
        name = device_name(trace, device_type, index).replace("cuda:", "GPU ")
        events.append(f'{{"ph":"M","pid":{FIRST_DEVICE + at},"name":"process_name","args":{{"name":"{name}"}}}}')
    for at, first in enumerate(streams.first.tolist()):
        rows = np.flatnonzero(streams.of == at)
        lane = _lanes(starts[rows], ends[rows])
        tid[rows] = used + lane
        pid = FIRST_DEVICE + int(devices.of[first])
        for number in range(int(lane.max()) + 1):
            name = f"stream {kernels['stream'][first]}{f' ({number + 1})' if number else ''}"
            events += _track(pid, used + number, name)
        used += int(lane.max()) + 1
    return FIRST_DEVICE + devices.of.astype(np.int64), tid, events


def _track(pid: int, tid: int, name: str) -> list[str]:
    common = f'"ph":"M","pid":{pid},"tid":{tid}'
    return [
        f'{{{common},"name":"thread_name","args":{{"name":"{name}"}}}}',
        f'{{{common},"name":"thread_sort_index","args":{{"sort_index":{tid}}}}}',
    ]


def _lanes(starts: Ints, ends: Ints) -> Ints:
    """A number for each interval. Intervals with the same number do not overlap, since viewers draw no overlaps on a track."""
    lanes = np.zeros(len(starts), dtype=np.int64)
    order = np.argsort(starts, kind="stable")
    if (starts[order][1:] >= np.maximum.accumulate(ends[order])[:-1]).all():
        return lanes
    free: list[tuple[int, int]] = []  # the end of the last interval of each lane, and the lane
    for row in order.tolist():
        if free and free[0][0] <= starts[row]:
            lanes[row] = heapq.heappop(free)[1]
        else:
            lanes[row] = len(free)
        heapq.heappush(free, (int(ends[row]), int(lanes[row])))
    return lanes


def _inside_ops(trace: Trace, op_ends: Ints) -> tuple[Ints, Ints]:
    """Starts and ends of runtime calls, clipped to the op that made them."""
    calls = trace.runtime_calls
    op = calls["op"].astype(np.int64)
    known = (op >= 0) & (np.append(trace.ops["thread"], NO_THREAD)[op] == calls["thread"])
    op = np.where(known, op, -1)
    least = np.append(trace.ops["start"], 0)[op]
    most = np.append(op_ends, np.iinfo(np.int64).max)[op]
    starts = np.clip(calls["start"], least, most)
    return starts, np.clip(calls["end"], starts, most)


def _call_tracks(trace: Trace, starts: Ints, ends: Ints) -> tuple[Ints, list[str]]:
    """The track of every runtime call: that of its thread, or one for threads that recorded nothing else."""
    thread = trace.runtime_calls["thread"].astype(np.int64)
    track, names = FIRST_THREAD + thread, []
    others = np.flatnonzero(thread == NO_THREAD)
    if len(others):
        first = FIRST_THREAD + len(trace.threads)
        lane = _lanes(starts[others], ends[others])
        track[others] = first + lane
        names = [event for number in range(int(lane.max()) + 1) for event in _track(1, first + number, "other threads")]
    return track, names


def _calls(trace: Trace, track: Ints, starts: Ints, ends: Ints) -> Iterator[list[str]]:
    calls = trace.runtime_calls
    names = {row: json.dumps(trace.strings[row]) for row in np.unique(calls["name"]).tolist()}
    for part in chunks(len(calls)):
        columns = zip(
            track[part].tolist(), calls["name"][part].tolist(), starts[part].tolist(), ends[part].tolist(), strict=True
        )
        yield [complete(tid, "runtime", names[name], start, end) for tid, name, start, end in columns]


def _kernels(trace: Trace, pid: Ints, tid: Ints, starts: Ints, ends: Ints) -> Iterator[list[str]]:
    kernels = trace.kernels
    names = {}
    for row, kind in np.unique(kernels[["name", "kind"]]).tolist():
        full = trace.strings[row]
        short = short_name(full) if kind == Activity.KERNEL else full
        names[row, kind] = json.dumps(short), f'"kernel":{json.dumps(full)},' if short != full else ""
    phase_names = [phase.name.lower() for phase in Phase]
    phase = np.minimum(kernels["phase"], len(phase_names) - 1)
    module = modules_of_calls(trace, kernels["module_call"])
    paths = [f',"module":{json.dumps(path)}' for path in paths_of_modules(trace)] + [""]
    op = names_of_ops(trace, kernels["op"])
    ops = {row: f',"op":{json.dumps(trace.strings[row])}' for row in np.unique(op).tolist() if row >= 0} | {-1: ""}
    for part in chunks(len(kernels)):
        chunk = kernels[part]
        details = [_details(*row) for row in zip(*(chunk[name].tolist() for name in DETAILS), strict=True)]
        columns = zip(
            pid[part].tolist(),
            tid[part].tolist(),
            chunk["name"].tolist(),
            chunk["kind"].tolist(),
            starts[part].tolist(),
            ends[part].tolist(),
            phase[part].tolist(),
            module[part].tolist(),
            op[part].tolist(),
            details,
            strict=True,
        )
        events = []
        for process, track, name, kind, start, end, in_phase, in_module, by_op, more in columns:
            shown, full = names[name, kind]
            args = f'{full}"phase":"{phase_names[in_phase]}"{paths[in_module]}{ops[by_op]}{more}'
            events.append(complete(track, CATEGORIES.get(kind, "kernel"), shown, start, end, process, args))
        yield events


def _details(grid: list[int], block: list[int], registers: int, shared: int, moved: int, direction: int, graph: int) -> str:
    """The details of a kernel that are known, as members of a JSON object."""
    text = ""
    if any(grid):
        text = f',"grid":{grid},"block":{block},"registers":{registers},"shared_memory":{shared}'
    if moved:
        text += f',"bytes":{moved}'
    if DIRECTIONS.get(direction):
        text += f',"direction":"{DIRECTIONS[direction]}"'
    return f'{text},"graph":{graph}' if graph else text


def _arrows(trace: Trace, track: Ints, call_starts: Ints, pid: Ints, tid: Ints, starts: Ints) -> Iterator[list[str]]:
    """Arrows from a runtime call to the kernel that it launched."""
    launched = np.flatnonzero(trace.kernels["runtime_call"] >= 0)
    call = trace.kernels["runtime_call"][launched]
    for part in chunks(len(launched)):
        events = []
        columns = zip(
            launched[part].tolist(),
            track[call[part]].tolist(),
            call_starts[call[part]].tolist(),
            pid[launched[part]].tolist(),
            tid[launched[part]].tolist(),
            starts[launched[part]].tolist(),
            strict=True,
        )
        for kernel, thread, from_time, process, stream, to_time in columns:
            common = f'"cat":"launch","name":"launch","id":{FIRST_ARROW + kernel}'
            events.append(f'{{"ph":"s",{common},"pid":1,"tid":{thread},"ts":{microseconds(from_time)}}}')
            events.append(f'{{"ph":"f","bp":"e",{common},"pid":{process},"tid":{stream},"ts":{microseconds(to_time)}}}')
        yield events
