"""``torchprof info FILE``: what a saved trace holds."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from typing import Any

import torchprof
from torchprof.rendering.units import format_bytes, format_ns
from torchprof.terminal import printable
from torchprof.wording import counted

__all__ = ["add_parser", "run"]


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Declare the arguments of ``info``."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "info", help="what a file holds", description="Say what a trace holds: versions, rows, steps, losses, size."
    )
    parser.add_argument("file", metavar="FILE", help="the trace")
    return parser


def run(options: argparse.Namespace) -> None:
    """Print a line for each fact."""
    trace = torchprof.load(options.file)
    facts = list(_facts(trace, os.stat(options.file).st_size))
    width = max(len(name) for name, _ in facts)
    for name, value in facts:
        print(f"{name:<{width}}  {printable(value)}")


def _facts(trace: torchprof.Trace, size: int) -> Iterator[tuple[str, str]]:
    facts = trace.facts
    yield "File", f"{format_bytes(size)}, {format_bytes(trace.nbytes)} of rows"
    recorded_by = f"torch {facts.get('torch', 'unknown')}, Python {facts.get('python', 'unknown')}"
    yield "Recorded with", str(facts.get("source", recorded_by))
    recorded = [name for name in ("ops", "shapes", "memory", "modules", "stacks") if facts.get(name)]
    yield "Options", ", ".join([*recorded, *(["aggregate"] if facts.get("aggregate") else [])]) or "unknown"
    yield "GPU", ": ".join(text for text in (str(facts.get("gpu", "off")), str(facts.get("gpu_note", ""))) if text)
    yield "Duration", format_ns(int(facts.get("duration_ns", 0)))
    warmup = int((trace.steps["warmup"] != 0).sum())
    yield "Steps", f"{len(trace.steps):,}" + (f", {warmup:,} of them warm-up" if warmup else "")
    yield "Model", counted(len(trace.model.modules), "module") if trace.model is not None else "not named in the recording"
    for table in ("ops", "module_calls", "allocations", "kernels", "runtime_calls"):
        yield table.replace("_", " ").capitalize(), f"{len(getattr(trace, table)):,}"
    lost = ", ".join(f"{count:,} {table.replace('_', ' ')}" for table, count in trace.losses.items())
    yield "Lost", lost or "nothing"
    for note in facts.get("notes", ()):
        yield "Note", str(note)
