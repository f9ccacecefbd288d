"""``torchprof info FILE``: what a file holds, be it a trace or a memory snapshot, or a folder with many ranks."""

from __future__ import annotations

import argparse
import os
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torchprof
from torchprof.cli.arguments import add_file, subcommand
from torchprof.cli.files import holds_snapshot, ranks_of, trace_of
from torchprof.cli.output import add_output_options, paged, write, write_json
from torchprof.cli.progress import working
from torchprof.rendering.units import format_bytes, format_ns
from torchprof.terminal import printable
from torchprof.trace.rank import rank_of
from torchprof.wording import counted, numbered

__all__ = ["add_parser", "run"]

TABLES = ("ops", "module_calls", "allocations", "kernels", "runtime_calls")
SUMS = {"ops": "op_totals", "module_calls": "call_totals", "kernels": "kernel_totals"}
"""Tables, and those with their sums in an aggregated trace."""
OF_ALL_RANKS = ("Recorded with", "Options", "GPU", "Mesh", "Model")
OPTIONS = ("ops", "shapes", "memory", "modules", "stacks")


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Declare the arguments of ``info``."""
    parser = subcommand(
        subparsers,
        "info FILE",
        "Say what a file holds: versions, device, steps, rows, losses, size.",
        "info step.torchprof",
        "info snapshot.pickle --json",
        "info run/",
    )
    add_file(parser, snapshots=True, ranks=True)
    add_output_options(parser)
    return parser


def run(options: argparse.Namespace) -> None:
    """Print a line for each fact."""
    size = os.stat(options.file).st_size
    if (ranks := ranks_of(options.file)) is not None:
        data, facts = _data_of_ranks(ranks), list(_facts_of_ranks(ranks))
    elif holds_snapshot(options.file):
        with working(f"reading {options.file}"):
            snapshot = torchprof.memory(options.file)
            data, facts = _data_of_snapshot(snapshot, size), list(_facts_of_snapshot(snapshot, size))
    else:
        trace = trace_of(options.file)
        data, facts = _data(trace, size), list(_facts(trace, size))
    if options.json:
        write_json(data)
        return
    width = max(len(name) for name, _ in facts)
    with paged(options):
        for name, value in facts:
            write(f"{name:<{width}}  {printable(value)}\n")


def _data(trace: torchprof.Trace, size: int) -> dict[str, Any]:
    facts, rank = trace.facts, rank_of(trace.facts)
    return {
        "kind": "trace",
        "file_bytes": size,
        "table_bytes": trace.nbytes,
        "torch": facts.get("torch"),
        "python": facts.get("python"),
        "source": facts.get("source"),
        "options": {name: facts.get(name) for name in (*OPTIONS, "aggregate")},
        "gpu": facts.get("gpu"),
        "gpu_note": facts.get("gpu_note"),
        "devices": list(facts["devices"]) if facts.get("devices") else None,
        "rank": rank.number if rank is not None else None,
        "world_size": rank.size if rank is not None else None,
        "local_rank": rank.local if rank is not None else None,
        "host": facts.get("host"),
        "process_groups": facts.get("process_groups"),
        "meshes": facts.get("meshes"),
        "pipelines": facts.get("pipelines"),
        "duration_ns": facts.get("duration_ns"),
        "origin_unix_ns": facts.get("origin_unix_ns"),
        "steps": len(trace.steps),
        "warmup_steps": _warmup(trace),
        "evaluation_steps": _evaluated(trace),
        "modules": len(trace.model.modules) if trace.model is not None else None,
        "rows": {name: len(getattr(trace, name)) for name in TABLES},
        "summed": {name: int(getattr(trace, sums)["count"].sum()) for name, sums in SUMS.items()}
        if trace.facts.get("aggregate")
        else None,
        "lost": trace.losses,
        "ended_by": facts.get("ended_by"),
        "notes": list(facts.get("notes", ())),
    }


def _evaluated(trace: torchprof.Trace) -> list[int]:
    """The numbers of the steps in which a model was also evaluated."""
    return list(trace.facts.get("evaluation_steps", ()))


def _counts(trace: torchprof.Trace, evaluated: list[int]) -> bool:
    """Whether tables have steps in them in which a model was also evaluated."""
    return not set(evaluated).isdisjoint(trace.steps["number"][trace.steps["warmup"] == 0].tolist())


def _warmup(trace: torchprof.Trace) -> int:
    """How many steps are warm-up, and were not left out for another reason."""
    evaluated = set(_evaluated(trace))
    return sum(number not in evaluated for number in trace.steps["number"][trace.steps["warmup"] != 0].tolist())


def _facts(trace: torchprof.Trace, size: int) -> Iterator[tuple[str, str]]:
    from torchprof.trace.ranks import listed  # which loads numpy, and help needs none

    facts = trace.facts
    yield "File", f"{format_bytes(size)}, {format_bytes(trace.nbytes)} of rows"
    recorded_by = f"torch {facts.get('torch', 'unknown')}, Python {facts.get('python', 'unknown')}"
    yield "Recorded with", str(facts.get("source", recorded_by))
    recorded = [name for name in OPTIONS if facts.get(name)]
    yield "Options", ", ".join([*recorded, *(["aggregate"] if facts.get("aggregate") else [])]) or "unknown"
    yield "GPU", ": ".join(text for text in (str(facts.get("gpu", "off")), str(facts.get("gpu_note", ""))) if text)
    if named := Counter(str(name) for name in facts.get("devices") or () if name):
        yield "Devices", ", ".join(f"{count} x {name}" if count > 1 else name for name, count in named.items())
    if (rank := rank_of(facts)) is not None:
        host = f", on {facts['host']}" if facts.get("host") else ""
        yield "Rank", f"{rank.number} of {rank.size if rank.size is not None else 'an unknown number'}{host}"
    for mesh in facts.get("meshes", ()):
        yield "Mesh", ", ".join(f"{name} {size}" for name, size in zip(mesh["dimensions"], mesh["shape"], strict=False))
    for pipeline in facts.get("pipelines", ()):
        stages, schedule = pipeline["stages"], f", {pipeline['schedule']}" if pipeline["schedule"] else ""
        yield "Pipeline", f"stage{'s' if len(stages) > 1 else ''} {listed(stages)} of {len(pipeline['ranks'])}{schedule}"
    yield "Duration", format_ns(int(facts.get("duration_ns", 0)))
    warmup = _warmup(trace)
    yield "Steps", f"{len(trace.steps):,}" + (f", {warmup:,} of them warm-up" if warmup else "")
    if evaluated := _evaluated(trace):
        counts = "they count in tables" if _counts(trace, evaluated) else "left out of tables"
        yield "Evaluation", f"in {numbered(evaluated, 'step')}; {counts}"
    yield "Model", counted(len(trace.model.modules), "module") if trace.model is not None else "not named in the recording"
    for table in TABLES:
        yield table.replace("_", " ").capitalize(), _count(trace, table)
    lost = ", ".join(f"{count:,} {table.replace('_', ' ')}" for table, count in trace.losses.items())
    yield "Lost", lost or "nothing"
    if facts.get("ended_by"):
        yield "Ended by", str(facts["ended_by"])
    for note in facts.get("notes", ()):
        yield "Note", str(note)


def _data_of_ranks(ranks: torchprof.Ranks) -> dict[str, Any]:
    return {
        "kind": "ranks",
        "world_size": ranks.world_size,
        "ranks": [
            {"rank": number, "file": file, **_data(trace, os.path.getsize(file))}
            for number, file, trace in zip(ranks.numbers, ranks.files, ranks, strict=True)
        ],
        "problems": list(ranks.problems),
    }


def _count(trace: torchprof.Trace, table: str) -> str:
    """How many rows a table has, or what its sums are of."""
    if not trace.facts.get("aggregate"):
        return f"{len(getattr(trace, table)):,}"
    if table not in SUMS:
        return "not kept: the recording was aggregated"
    sums = getattr(trace, SUMS[table])
    return f"{int(sums['count'].sum()):,}, kept as {counted(len(sums), 'sum')}"


def _facts_of_ranks(ranks: torchprof.Ranks) -> Iterator[tuple[str, str]]:
    files, rows = sum(map(os.path.getsize, ranks.files)), sum(trace.nbytes for trace in ranks)
    yield "Files", f"{len(ranks.files):,}, {format_bytes(files)}, {format_bytes(rows)} of rows"
    yield "Ranks", f"{len(ranks):,} of {ranks.world_size:,}"
    hosts = Counter(str(trace.facts["host"]) for trace in ranks if trace.facts.get("host"))
    if hosts:
        yield "Hosts", ", ".join(f"{name} ({count:,})" for name, count in hosts.items())
    yield from ((name, text) for name, text in _facts(ranks[0], 0) if name in OF_ALL_RANKS)
    steps = sorted({len(trace.steps) for trace in ranks})
    yield "Steps", f"{steps[0]:,} each" if len(steps) == 1 else f"{steps[0]:,} to {steps[-1]:,}"
    for problem in ranks.problems:
        yield "Problem", problem


def _data_of_snapshot(account: torchprof.SnapshotMemory, size: int) -> dict[str, Any]:
    snapshot = account.snapshot
    return {
        "kind": "memory snapshot",
        "file_bytes": size,
        "settings": {str(name): value for name, value in snapshot.settings.items()},
        "devices": [_data_of_device(account, number) for number in snapshot.devices],
    }


def _data_of_device(account: torchprof.SnapshotMemory, number: int) -> dict[str, Any]:
    """What a snapshot has of a device; None of its history where it has none."""
    snapshot = account.snapshot
    segments = snapshot.segments(number)
    history = snapshot.history(number) if snapshot.has_history(number) else None
    times = snapshot.times(number)
    with_stacks = history is not None and any(snapshot.frames(number, row) for row in range(len(history)))
    return {
        "device": f"cuda:{number}",
        "segments": len(segments),
        "reserved": sum(segment.size for segment in segments),
        "entries": len(history) if history is not None else None,
        "changes": snapshot.changes(number) if history is not None else None,
        "requests_failed": sum(entry.action == "oom" for entry in history) if history is not None else None,
        "duration_ns": (times[-1] - times[0]) * 1000 if times else None,
        "stacks": with_stacks if history is not None else None,
    }


def _facts_of_snapshot(account: torchprof.SnapshotMemory, size: int) -> Iterator[tuple[str, str]]:
    data = _data_of_snapshot(account, size)
    yield "File", f"{format_bytes(size)}, a CUDA memory snapshot"
    yield "Settings", _settings(data["settings"])
    for device in data["devices"]:
        name = str(device["device"])
        yield name, f"{counted(device['segments'], 'segment')}, {format_bytes(device['reserved'])} reserved at the end"
        if device["entries"] is None:
            yield "", "no history: torch.cuda.memory._record_memory_history() before the program keeps one"
            continue
        long = f" in {format_ns(device['duration_ns'])}" if device["duration_ns"] else ""
        stacks = "with stacks of Python" if device["stacks"] else "without stacks of Python"
        yield "", f"{counted(device['entries'], 'entry', 'entries')} of history{long}, {stacks}"
        if not device["changes"]:
            yield "", "nothing was allocated or freed in it: it tells no more than the end"
        if failed := device["requests_failed"]:
            yield "", f"{counted(failed, 'request')} failed: torchprof explain-oom says why"


def _settings(settings: dict[str, Any]) -> str:
    """Those of the allocator that were set."""
    if not settings:
        return "unknown"
    given = {name: value for name, value in settings.items() if value and value != -1}
    given = {name: value for name, value in given.items() if not isinstance(value, dict) or any(value.values())}
    return ", ".join(f"{name}:{value}" for name, value in given.items()) or "the defaults"
