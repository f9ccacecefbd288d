"""What is said below tables: over what figures are means, what kind of time they show, and what is missing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from torchprof.analysis.gpu.backend import gpu_backend, has_kernels
from torchprof.trace.trace import Trace

__all__ = ["footer", "incomplete", "remarks", "unknown_flops"]

MOST_NAMED: Final = 6


def footer(trace: Trace, times: str = "host time", of: str | None = None) -> tuple[str, ...]:
    """The lines below a table of this trace: what its figures are, by default means over steps; and of which time."""
    if of is None:
        active = int((trace.steps["warmup"] == 0).sum())
        of = f"Mean of {active:,} steps" if active > 1 else "One step" if active else "The whole recording"
    backend = gpu_backend(trace)
    if has_kernels(trace) and times == "host time":
        times = "host time, but for Device and Dev columns: time of kernels"
    lines = [f"{of}; {times}"]
    if backend != "off" and not has_kernels(trace):
        lines.append("Devices were recorded, and did nothing")
    if backend == "events" and trace.facts.get("gpu_note"):
        lines.append(f"Devices were recorded with events: {trace.facts['gpu_note']}")
    return (*lines, *merged_shapes(trace), *remarks(trace))


def remarks(trace: Trace) -> list[str]:
    """What must be said of a recording that does not have everything: below every table and account."""
    note = trace.facts.get("memory_note")
    return [*ended_early(trace), *([f"Memory: {note}"] if note else []), *incomplete(trace.losses)]


def merged_shapes(trace: Trace) -> list[str]:
    """What must be said where ops ran with so many shapes that their sums were merged."""
    merged = trace.op_totals[trace.op_totals["merged"] != 0]
    if not len(merged):
        return []
    count, ops = int(merged["count"].sum()), int(trace.op_totals["count"].sum())
    kept = trace.facts.get("shapes_kept", 0)
    beyond = f"further shapes than the first {kept} of an op in a module" if kept > 1 else "many shapes"
    return [f"Other shapes: {count:,} of {ops:,} ops ran with {beyond}, and are summed up together"]


def ended_early(trace: Trace) -> list[str]:
    """What must be said where an exception ended the recording."""
    if not (name := trace.facts.get("ended_by")):
        return []
    return [f"{name} ended the recording" + ("; the step that it broke off is left out" if len(trace.steps) else "")]


def unknown_flops(names: Iterable[str]) -> list[str]:
    """What must be said of ops that may have FLOPs and have no formula."""
    listed = sorted(set(names))
    if not listed:
        return []
    shown = ", ".join(listed[:MOST_NAMED]) + (f" and {len(listed) - MOST_NAMED} more" if len(listed) > MOST_NAMED else "")
    return [
        f"Unknown FLOPs (? and >=): of {shown}",
        "Formulas are registered with torch.utils.flop_counter.register_flop_formula",
    ]


def incomplete(losses: Mapping[str, int]) -> list[str]:
    """What must be said of rows that a recording had no room for."""
    why = {"kernels": "did not fit the budget, or the device's own buffers"}
    return [
        f"INCOMPLETE: {count:,} {table.replace('_', ' ')} {why.get(table, 'did not fit the budget')}; figures above miss them"
        for table, count in losses.items()
    ]
