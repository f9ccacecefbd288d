"""The timeline: a trace as a file that Perfetto and chrome://tracing open, in the Trace Event format.

A trace may hold millions of ops, so events are formatted by hand, a chunk of rows at a time, and written as they come:
``json.dumps`` is asked once for each name, never for an event.
"""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt

from torchprof.analysis.gpu.kernels import watched
from torchprof.analysis.memory.changes import changes_of
from torchprof.analysis.model.module_tree import paths_of_modules
from torchprof.analysis.time.calls import closed_ends
from torchprof.errors import ArgumentError
from torchprof.rendering.chrome_gpu import gpu_events
from torchprof.rendering.trace_events import FIRST_THREAD, chunks, complete, microseconds
from torchprof.trace.schema import DEVICE_NAMES, OP_ATTRIBUTED, SCOPE_BACKWARD, SCOPE_USER, Phase, phases
from torchprof.trace.trace import Trace

__all__ = ["export_chrome"]

Ints = npt.NDArray[np.int64]

MOST_COUNTERS: Final = 100_000
GZIP_LEVEL: Final = 1  # names repeat so much that higher levels save a few percent

STEPS, PHASES = 1, 2  # tracks

CATEGORIES: Final = ("op", "backward", "user")


def export_chrome(trace: Trace, path: str | os.PathLike[str]) -> None:
    """Write the timeline of a trace as Chrome trace event JSON, for https://ui.perfetto.dev or ``chrome://tracing``.

    Every recorded thread is a track, on which module calls and ops nest. Steps and phases have tracks of their own, the
    bytes held on each type of device are a counter, marks are instants, and an arrow leads from a forward op to the
    autograd node that differentiates it. Every device is a process, with a track for each stream; calls of its runtime are
    on the threads that made them, and an arrow leads from each to what it asked for. What was not seen to end is drawn to
    the end of what it ran in, or of the trace; a kernel without known times is drawn where it started.

    Args:
        trace: what `torchprof.profile` recorded.
        path: the file to write; compressed with gzip, which both viewers read, if it ends in ``.gz``.

    Raises:
        ArgumentError: the trace holds sums and no single ops.
        OSError: the file cannot be written.

    Example:
        >>> export_chrome(prof.trace, "step.json.gz")
    """
    if trace.facts.get("aggregate") and not len(trace.ops):
        raise ArgumentError(
            f"trace must hold single ops, and {trace!r} holds sums, which have no timeline: record without aggregate=True"
        )
    shown = os.fspath(path)
    with gzip.open(shown, "wb", GZIP_LEVEL) if shown.endswith(".gz") else open(shown, "wb") as file:
        file.write(_head(trace).encode())
        for events in _events(trace):
            # The head ends in an event, so a comma goes before each that follows.
            file.write("".join([f",\n{event}" for event in events]).encode())
        file.write(b"\n]}\n")


def _head(trace: Trace) -> str:
    import torchprof

    facts = {
        "torchprof": torchprof.__version__,
        "torch": trace.facts.get("torch", ""),
        "losses": trace.losses,
        "origin_unix_ns": trace.facts.get("origin_unix_ns", 0),
    }
    if watched(trace) != "off":
        facts |= {"gpu": watched(trace), "gpu_clock_error_ns": trace.facts.get("gpu_clock_error_ns", 0)}
    process = '{"ph":"M","pid":1,"name":"process_name","args":{"name":"torchprof"}}'
    return f'{{"displayTimeUnit":"ns","otherData":{json.dumps(facts)},"traceEvents":[\n{process}'


def _events(trace: Trace) -> Iterator[list[str]]:
    ends = closed_ends(trace, trace.ops)
    yield _tracks(trace)
    yield _steps(trace)
    yield _phases(trace, ends)
    yield _marks(trace)
    # A viewer puts what begins at the same nanosecond in the order of the file: a call goes before the ops in it, an op
    # before the arrow that leaves it.
    yield from _module_calls(trace)
    yield from _ops(trace, ends)
    yield from gpu_events(trace, ends)
    yield from _arrows(trace)
    yield from _counters(trace)


def _tracks(trace: Trace) -> list[str]:
    names = {STEPS: "steps", PHASES: "phases"}
    main = _main_thread(trace)
    for row, native in enumerate(trace.threads["native_id"].tolist()):
        names[FIRST_THREAD + row] = f"{'main thread' if row == main else 'thread'} {native}"
    events = []
    for tid, name in names.items():
        events.append(f'{{"ph":"M","pid":1,"tid":{tid},"name":"thread_name","args":{{"name":"{name}"}}}}')
        events.append(f'{{"ph":"M","pid":1,"tid":{tid},"name":"thread_sort_index","args":{{"sort_index":{tid}}}}}')
    return events


def _main_thread(trace: Trace) -> int:
    """The thread of the first module call or, where there is none, of the first op."""
    rows = trace.module_calls if len(trace.module_calls) else trace.ops
    return int(rows["thread"][rows["start"].argmin()]) if len(rows) else 0


def _steps(trace: Trace) -> list[str]:
    steps = trace.steps
    starts = steps["start"].tolist()
    # A step that was not seen to end lasts until the next one begins, or to the end of the recording.
    latest = max([int(trace.facts.get("duration_ns", 0)), *starts])
    following = [*starts[1:], latest]
    ends = [end if end >= 0 else after for end, after in zip(steps["end"].tolist(), following, strict=False)]
    names = [
        f'"step {number}{" (warm-up)" if warmup else ""}"'
        for number, warmup in zip(steps["number"].tolist(), steps["warmup"].tolist(), strict=True)
    ]
    return [complete(STEPS, "step", *step) for step in zip(names, starts, ends, strict=True)]


def _phases(trace: Trace, ends: Ints) -> list[str]:
    """Runs of outermost ops of the same phase.

    Of the main thread, and of the threads that autograd runs backward passes of devices on, for which that one waits. A
    user range that spans phases is of none: what runs in it counts as outermost.
    """
    ops = trace.ops
    if not len(ops):
        return []
    phase, parent, start = phases(ops), ops["parent"], ops["start"]
    ranges = (ops["scope"] == SCOPE_USER) & (phase == Phase.OTHER)
    outermost = ~ranges & ((parent < 0) | ranges[parent])
    rows = np.flatnonzero(outermost & ((ops["thread"] == _main_thread(trace)) | (phase == Phase.BACKWARD)))
    if not len(rows):
        return []
    rows = rows[np.argsort(start[rows], kind="stable")]
    firsts = np.flatnonzero(np.diff(phase[rows], prepend=np.uint8(255)))
    starts = start[rows][firsts]
    stops = np.maximum.reduceat(ends[rows], firsts)
    stops[:-1] = np.minimum(stops[:-1], starts[1:])
    names = [f'"{Phase(value).name.lower()}"' for value in phase[rows][firsts].tolist()]
    return [complete(PHASES, "phase", *run) for run in zip(names, starts.tolist(), stops.tolist(), strict=True)]


def _marks(trace: Trace) -> list[str]:
    return [
        f'{{"ph":"i","pid":1,"tid":{STEPS},"s":"p","cat":"mark","ts":{microseconds(time)},"name":{json.dumps(trace.strings[name])}}}'
        for time, name in trace.marks.tolist()
    ]


def _module_calls(trace: Trace) -> Iterator[list[str]]:
    calls = trace.module_calls
    ends = closed_ends(trace, calls)
    names = []
    for path, type in zip(paths_of_modules(trace), trace.modules["type"].tolist(), strict=True):
        names.append(json.dumps(f"{path} ({trace.strings[type]})" if path else trace.strings[type]))
    for part in chunks(len(calls)):
        chunk = calls[part]
        columns = zip(
            chunk["thread"].tolist(), chunk["module"].tolist(), chunk["start"].tolist(), ends[part].tolist(), strict=True
        )
        yield [complete(FIRST_THREAD + thread, "module", names[module], start, end) for thread, module, start, end in columns]


def _ops(trace: Trace, ends: Ints) -> Iterator[list[str]]:
    """One complete event per op: as `complete` makes them, written out because there are so many."""
    ops = trace.ops
    names = {row: json.dumps(trace.strings[row]) for row in np.unique(trace.signatures["name"]).tolist()}
    phase_names = [phase.name.lower() for phase in Phase]
    # The last one, at -1, is of ops outside all modules.
    modules = [f',"module":{json.dumps(path)}' for path in paths_of_modules(trace)] + [""]
    module_of_call = np.append(trace.module_calls["module"].astype(np.int64), -1)
    category = np.zeros(256, dtype=np.uint8)
    category[[SCOPE_BACKWARD, SCOPE_USER]] = 1, 2
    for part in chunks(len(ops)):
        chunk = ops[part]
        # By chunk, because there can be as many signatures as ops.
        kinds = {row: _name_and_shapes(trace, names, row) for row in np.unique(chunk["signature"]).tolist()}
        columns = zip(
            chunk["thread"].tolist(),
            category[chunk["scope"]].tolist(),
            chunk["start"].tolist(),
            (ends[part] - chunk["start"]).tolist(),
            chunk["signature"].tolist(),
            phases(chunk).tolist(),
            module_of_call[chunk["module_call"]].tolist(),
            chunk["sequence_nr"].tolist(),
            strict=True,
        )
        yield [
            f'{{"ph":"X","pid":1,"tid":{FIRST_THREAD + thread},"cat":"{CATEGORIES[scope]}",'
            f'"ts":{start // 1000}.{start % 1000:03d},"dur":{duration // 1000}.{duration % 1000:03d},{kinds[signature]},'
            f'"phase":"{phase_names[phase]}"{modules[module]}{f""","sequence_nr":{number}""" if number >= 0 else ""}}}}}'
            for thread, scope, start, duration, signature, phase, module, number in columns
        ]


def _name_and_shapes(trace: Trace, names: dict[int, str], row: int) -> str:
    signature = trace.signatures[row]
    first, count = int(signature["inputs"]), int(signature["n_inputs"])
    tensors = trace.tensors[trace.operands[first : first + count]]
    shapes = [trace.shape(shape) for shape in tensors["shape"].tolist()]
    return f'"name":{names[int(signature["name"])]},"args":{{"shapes":{json.dumps(shapes)}'


def _arrows(trace: Trace) -> Iterator[list[str]]:
    """From the op that created an autograd node to the node."""
    ops = trace.ops
    sources, nodes = _forward_ops(trace)
    for part in chunks(len(nodes)):
        events = []
        first, last = ops[sources[part]], ops[nodes[part]]
        columns = zip(
            first["thread"].tolist(), first["start"].tolist(), last["thread"].tolist(), last["start"].tolist(), strict=True
        )
        for number, (from_thread, left, to_thread, reached) in enumerate(columns, start=part.start):
            common = f'"pid":1,"cat":"backward","name":"backward","id":{number}'
            events.append(f'{{"ph":"s",{common},"tid":{FIRST_THREAD + from_thread},"ts":{microseconds(left)}}}')
            events.append(f'{{"ph":"f","bp":"e",{common},"tid":{FIRST_THREAD + to_thread},"ts":{microseconds(reached)}}}')
        yield events


def _forward_ops(trace: Trace) -> tuple[Ints, Ints]:
    """Autograd nodes, and for each the op that created it: the last with its number on the thread that ran the forward."""
    ops, number = trace.ops, trace.ops["sequence_nr"]
    is_node = ops["forward_thread"] != 0
    nodes = np.flatnonzero(is_node & (number >= 0) & ((ops["flags"] & OP_ATTRIBUTED) != 0))
    others = np.flatnonzero(~is_node & (number >= 0))
    torch_ids = trace.threads["torch_id"]
    found = np.full(len(nodes), -1, dtype=np.int64)
    for torch_id in np.unique(torch_ids):
        here = others[torch_ids[ops["thread"][others]] == torch_id]
        if not len(here):
            continue
        here = here[np.argsort(number[here], kind="stable")]
        wanted = np.flatnonzero(ops["forward_thread"][nodes] == torch_id)
        last = here[np.searchsorted(number[here], number[nodes[wanted]], side="right") - 1]
        found[wanted] = np.where(number[last] == number[nodes[wanted]], last, -1)
    return found[found >= 0], nodes[found >= 0]


def _counters(trace: Trace) -> Iterator[list[str]]:
    """Bytes held over time, for each type of device; from the start on, those that were held before it."""
    device_types = np.unique(trace.allocations["device_type"]).tolist()
    for device_type in device_types:
        blocks = trace.allocations[trace.allocations["device_type"] == device_type]
        times, changes = changes_of(blocks)
        times = np.append(0, times)
        held = np.cumsum(np.append(blocks["bytes"][blocks["start"] < 0].sum(), changes))
        settled = np.append(np.diff(times) != 0, True)  # the last of what happened at the same time
        times, held = times[settled], held[settled]
        shown = _highest(held, MOST_COUNTERS // len(device_types))
        common = f'"ph":"C","pid":1,"name":"bytes held ({DEVICE_NAMES[device_type]})"'
        columns = zip(times[shown].tolist(), held[shown].tolist(), strict=True)
        yield [f'{{{common},"ts":{microseconds(time)},"args":{{"bytes":{count}}}}}' for time, count in columns]


def _highest(values: Ints, most: int) -> Ints:
    """Rows to draw instead of all: the highest of every few, and the ends of the curve."""
    if len(values) <= most:
        return np.arange(len(values))
    few = -(-len(values) // (most - 2))
    padded = np.pad(values, (0, -len(values) % few), mode="edge").reshape(-1, few)
    highest = np.arange(len(padded)) * few + padded.argmax(axis=1)
    rows: Ints = np.unique(np.concatenate([[0], highest, [len(values) - 1]]).clip(max=len(values) - 1))
    return rows
