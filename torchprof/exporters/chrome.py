"""The timeline of a trace, as a file in the Trace Event format, which Perfetto and chrome://tracing open.

A trace may hold millions of ops. So events are written by hand as text, a chunk of rows at a time: ``json.dumps`` is called
once for each name, and never for an event.
"""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, BinaryIO, Final

import numpy as np
import numpy.typing as npt

from torchprof._version import __version__
from torchprof.analysis.autograd import forward_and_backward_ops
from torchprof.analysis.crossing import lanes_of_ranges
from torchprof.analysis.gpu.backend import gpu_backend
from torchprof.analysis.lines.op_stacks import op_stacks
from torchprof.analysis.lines.user_code import counted_rows
from torchprof.analysis.model.module_tree import paths_of_modules
from torchprof.analysis.spans import closed_ends
from torchprof.errors import ArgumentError
from torchprof.exporters.chrome_gpu import gpu_events
from torchprof.exporters.chrome_memory import memory_events
from torchprof.exporters.chrome_phases import phase_slices
from torchprof.exporters.chrome_python import python_events
from torchprof.exporters.chrome_ranks import facts_of_ranks, process_of, rank_events
from torchprof.exporters.python_stacks import PythonStacks
from torchprof.exporters.trace_events import FIRST_THREAD, chunks, complete, microseconds
from torchprof.paths import AnyPath, text_of, written
from torchprof.trace.checks import check_trace
from torchprof.trace.ranks import Ranks
from torchprof.trace.schema import SCOPE_BACKWARD, SCOPE_USER, Phase, phases
from torchprof.trace.trace import Trace

__all__ = ["export_chrome"]

Ints = npt.NDArray[np.int64]

GZIP_LEVEL: Final = 1  # names repeat so often that higher levels save only a few percent

STEPS, PHASES = 1, 2
"""The tracks of steps and phases."""

FIRST_RANGES: Final = 2**20
"""The first track of ranges that do not nest: beyond those of all threads."""

CATEGORIES: Final = ("op", "backward", "user")
"""Categories of ops: dispatcher calls, autograd nodes and user ranges."""


def export_chrome(trace: Trace | Ranks, path: AnyPath, *, libraries: bool = False) -> None:
    """Write the timeline of a trace as Chrome trace event JSON, for https://ui.perfetto.dev or ``chrome://tracing``.

    Every recorded thread is a track, on which module calls and ops nest. User ranges that do not, because one of them ended
    while a later one went on, are on a further track of the thread. Steps and phases have tracks of their own, the bytes held
    on each type of device are a counter, marks are instants, and an arrow leads from a forward op to the autograd node that
    differentiates it. Where stacks of Python are known, an op tells the line that it is of (of backward, the line of forward
    that it differentiates), and every thread has a further track with the lines of Python that were running: one lasts from the
    first op or module call that began in it to the end of the last. Every device is a process with a track for each stream.
    Calls of its runtime are on the threads that made them, and an arrow leads from each launch to its kernel. An op whose end
    was not recorded is drawn to the end of what it ran in, or of the trace; a kernel without valid times is drawn at its start,
    with no duration.

    Of `Ranks`, every rank is a process of its own, and its devices are further ones. Their clocks are aligned, as
    `torchprof.clocks` says, and an arrow leads along each collective, from the rank that asked for it first to the last.

    Args:
        trace: what `torchprof.profile` recorded; or `Ranks`.
        path: the file to write. If it ends in ``.gz``, it is compressed with gzip, which both viewers read.
        libraries: of Python, also show the lines of libraries, such as PyTorch's own.

    Raises:
        ArgumentError: the trace, or that of a rank, holds sums only, and no single ops.
        OSError: the file cannot be written.

    Example:
        >>> export_chrome(prof.trace, "step.json.gz")
    """
    traces = list(trace) if isinstance(trace, Ranks) else [trace]
    for each in traces:
        check_trace(each)
        if each.facts.get("aggregate") and not len(each.ops):
            raise ArgumentError(
                f"trace must hold single ops, and {each!r} holds sums, which have no timeline: record without aggregate=True"
            )
    if isinstance(trace, Ranks):
        head = _head(traces[0], process_of(trace, 0), facts_of_ranks(trace))
        all_events = rank_events(trace, partial(_events, libraries=libraries))
    else:
        head, all_events = _head(trace, "torchprof", {}), _events(trace, libraries)
    with written(path) as plain, _packed(plain, text_of(path)) as file:
        file.write(head.encode())
        for events in all_events:
            # The head ends in an event, so every other event follows a comma.
            file.write("".join([f",\n{event}" for event in events]).encode())
        file.write(b"\n]}\n")


def _packed(file: BinaryIO, name: str) -> AbstractContextManager[BinaryIO | gzip.GzipFile]:
    """The file, or one that packs what is written to it."""
    if not name.endswith(".gz"):
        return nullcontext(file)
    return gzip.GzipFile(os.path.basename(name)[:-3], "wb", GZIP_LEVEL, file)


def _head(trace: Trace, process: str, more: dict[str, Any]) -> str:
    facts = {
        "torchprof": __version__,
        "torch": trace.facts.get("torch", ""),
        "losses": trace.losses,
        "origin_unix_ns": trace.facts.get("origin_unix_ns", 0),
    }
    if gpu_backend(trace) != "off":
        facts |= {"gpu": gpu_backend(trace), "gpu_clock_error_ns": trace.facts.get("gpu_clock_error_ns", 0)}
    named = f'{{"ph":"M","pid":1,"name":"process_name","args":{{"name":{json.dumps(process)}}}}}'
    return f'{{"displayTimeUnit":"ns","otherData":{json.dumps({**facts, **more})},"traceEvents":[\n{named}'


def _events(trace: Trace, libraries: bool) -> Iterator[list[str]]:
    ends = closed_ends(trace, trace.ops)
    yield _tracks(trace)
    yield _steps(trace)
    slices = phase_slices(trace, ends, _main_thread(trace))
    yield [complete(PHASES, "phase", f'"{phase.name.lower()}"', start, end) for phase, start, end in slices]
    yield _marks(trace)
    # Viewers keep the order of the file for what begins in the same nanosecond. So a call comes before the ops in it, and an op
    # before the arrow that starts there.
    yield from _module_calls(trace)
    tracks, names = _tracks_of_ops(trace, ends)
    yield names
    yield from _ops(trace, ends, tracks, libraries)
    yield from python_events(trace, ends, libraries, [_thread_name(trace, row) for row in range(len(trace.threads))])
    yield from gpu_events(trace, ends)
    yield from _arrows(trace)
    yield from memory_events(trace)


def _tracks(trace: Trace) -> list[str]:
    names = {STEPS: "steps", PHASES: "phases"}
    names |= {FIRST_THREAD + row: _thread_name(trace, row) for row in range(len(trace.threads))}
    return [event for tid, name in names.items() for event in _track(tid, name, tid)]


def _track(tid: int, name: str, position: int) -> list[str]:
    return [
        f'{{"ph":"M","pid":1,"tid":{tid},"name":"thread_name","args":{{"name":"{name}"}}}}',
        f'{{"ph":"M","pid":1,"tid":{tid},"name":"thread_sort_index","args":{{"sort_index":{position}}}}}',
    ]


def _thread_name(trace: Trace, row: int) -> str:
    return f"{'main thread' if row == _main_thread(trace) else 'thread'} {trace.threads['native_id'][row]}"


def _tracks_of_ops(trace: Trace, ends: Ints) -> tuple[Ints, list[str]]:
    """The track of every op, and the names of those for ranges that do not nest on the track of their thread."""
    tracks = FIRST_THREAD + trace.ops["thread"].astype(np.int64)
    lanes = lanes_of_ranges(trace, ends, closed_ends(trace, trace.module_calls))
    further = {
        key: FIRST_RANGES + at for at, key in enumerate(sorted({(int(tracks[row]), lane) for row, lane in lanes.items()}))
    }
    names = []
    for (thread, lane), track in further.items():
        known = thread - FIRST_THREAD < len(trace.threads)
        name = _thread_name(trace, thread - FIRST_THREAD) if known else f"thread {thread}"
        names += _track(track, f"{name}, ranges ({lane + 1})", thread)
    for row, lane in lanes.items():
        tracks[row] = further[int(tracks[row]), lane]
    return tracks, names


def _main_thread(trace: Trace) -> int:
    """The thread of the first module call or, without calls, of the first op."""
    rows = trace.module_calls if len(trace.module_calls) else trace.ops
    return int(rows["thread"][rows["start"].argmin()]) if len(rows) else 0


def _steps(trace: Trace) -> list[str]:
    steps = trace.steps
    starts = steps["start"].tolist()
    # A step whose end was not recorded ends where the next one starts, or with the recording.
    latest = max([int(trace.facts.get("duration_ns", 0)), *starts])
    following = [*starts[1:], latest]
    ends = [end if end >= 0 else after for end, after in zip(steps["end"].tolist(), following, strict=False)]
    names = [
        f'"step {number}{" (warm-up)" if warmup else ""}"'
        for number, warmup in zip(steps["number"].tolist(), steps["warmup"].tolist(), strict=True)
    ]
    return [complete(STEPS, "step", *step) for step in zip(names, starts, ends, strict=True)]


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


def _ops(trace: Trace, ends: Ints, tracks: Ints, libraries: bool) -> Iterator[list[str]]:
    """One complete event per op. It is written out here, not by `complete`, because there are so many."""
    ops = trace.ops
    names = {row: json.dumps(trace.strings[row]) for row in np.unique(trace.signatures["name"]).tolist()}
    phase_names = [phase.name.lower() for phase in Phase]
    # The last, at index -1, is for ops outside of all modules.
    modules = [f',"module":{json.dumps(path)}' for path in paths_of_modules(trace)] + [""]
    module_of_call = np.append(trace.module_calls["module"].astype(np.int64), -1)
    functions, stacks = _functions(trace, libraries)
    category = np.zeros(256, dtype=np.uint8)
    category[[SCOPE_BACKWARD, SCOPE_USER]] = 1, 2
    for part in chunks(len(ops)):
        chunk = ops[part]
        # By chunk, because there may be as many signatures as ops.
        heads = {row: _name_and_shapes(trace, names, row) for row in np.unique(chunk["signature"]).tolist()}
        columns = zip(
            tracks[part].tolist(),
            category[chunk["scope"]].tolist(),
            chunk["start"].tolist(),
            (ends[part] - chunk["start"]).tolist(),
            chunk["signature"].tolist(),
            phases(chunk).tolist(),
            module_of_call[chunk["module_call"]].tolist(),
            chunk["sequence_nr"].tolist(),
            stacks[part].tolist(),
            strict=True,
        )
        yield [
            f'{{"ph":"X","pid":1,"tid":{track},"cat":"{CATEGORIES[scope]}",'
            f'"ts":{start // 1000}.{start % 1000:03d},"dur":{duration // 1000}.{duration % 1000:03d},{heads[signature]},'
            f'"phase":"{phase_names[phase]}"{modules[module]}{f""","sequence_nr":{number}""" if number >= 0 else ""}'
            f"{functions[stack]}}}}}"
            for track, scope, start, duration, signature, phase, module, number, stack in columns
        ]


def _functions(trace: Trace, libraries: bool) -> tuple[list[str], Ints]:
    """What is said of every row of ``trace.stacks``, at index -1 nothing, and the row of every op."""
    if not len(trace.stacks):
        return [""], np.full(len(trace.ops), -1)
    python = PythonStacks(trace, libraries)
    texts = [f',"function":{json.dumps(frame.text)}' for frame in python.frames()]
    stack = op_stacks(trace).attributed(counted_rows(trace, libraries))
    return [*texts, ""], np.append(python.shown, -1)[stack]


def _name_and_shapes(trace: Trace, names: dict[int, str], row: int) -> str:
    signature = trace.signatures[row]
    first, count = int(signature["inputs"]), int(signature["n_inputs"])
    tensors = trace.tensors[trace.operands[first : first + count]]
    shapes = [trace.shape(shape) for shape in tensors["shape"].tolist()]
    return f'"name":{names[int(signature["name"])]},"args":{{"shapes":{json.dumps(shapes)}'


def _arrows(trace: Trace) -> Iterator[list[str]]:
    """Arrows from the op that created an autograd node to the node."""
    ops = trace.ops
    sources, nodes = forward_and_backward_ops(trace)
    for part in chunks(len(nodes)):
        events = []
        first, last = ops[sources[part]], ops[nodes[part]]
        columns = zip(
            first["thread"].tolist(), first["start"].tolist(), last["thread"].tolist(), last["start"].tolist(), strict=True
        )
        for number, (from_thread, from_time, to_thread, to_time) in enumerate(columns, start=part.start):
            common = f'"pid":1,"cat":"backward","name":"backward","id":{number}'
            events.append(f'{{"ph":"s",{common},"tid":{FIRST_THREAD + from_thread},"ts":{microseconds(from_time)}}}')
            events.append(f'{{"ph":"f","bp":"e",{common},"tid":{FIRST_THREAD + to_thread},"ts":{microseconds(to_time)}}}')
        yield events
