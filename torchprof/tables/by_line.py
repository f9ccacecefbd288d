"""`torchprof.by_line` and `torchprof.by_function`: what every line and every function of a program cost."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Final

from torchprof.analysis.gpu.backend import has_kernels
from torchprof.analysis.lines.memory_costs import memory_costs
from torchprof.analysis.lines.records import place_records
from torchprof.analysis.lines.user_code import has_user_code
from torchprof.analysis.memory.steps import memory_is_known
from torchprof.analysis.records import Record
from torchprof.arguments import check_flag
from torchprof.errors import ArgumentError
from torchprof.tables.checks import check_trace
from torchprof.tables.footer import coverage, footer, unknown_flops
from torchprof.tables.table import About, Table, worth_showing
from torchprof.trace.source import is_other_text, source_lines
from torchprof.trace.trace import Trace

__all__ = ["by_function", "by_line", "check_stacks", "with_sources"]

COLUMNS: Final = "calls self share time forward_self recompute_self backward_self optimizer_self".split()
FIGURES: Final = {
    "device": ("device_self", "device_share", "kernels", "synchronizations"),
    "memory": ("at_peak", "saved", "leaked"),
}
OPTIONAL: Final = (
    *("calls", "recompute_self", "optimizer_self", "forward_self", "backward_self", "flops_self", "flops"),
    *("kernels", "synchronizations", "saved", "leaked", "at_peak", "source"),
)
"""Columns that are printed where any row has something there."""
BETWEEN: Final = "between its lines or calls"
NO_LINES: Final = "The trace knows no lines, only functions and where these begin: rows are functions"


def by_line(trace: Trace, *, libraries: bool = False, backward_at_call: bool = False) -> Table:
    """What every line of the program cost per step, most self time first: time, FLOPs, memory; its text beside it.

    The self times of all rows add up to the time recorded, unless threads worked at the same time. An op is of the line that
    was running in the innermost function of the user's own: what libraries do (PyTorch, transformers, Python's own, and all
    else that is installed) is of the line that called them. Backward is of the line that it differentiates, but for what Python
    runs inside it, such as ``Function.backward``. Python between two ops is of the line that was not left in between, such as
    that of the optimizer's step; where none is known, it is of the function that both ran in, in a row of its own, and before
    the first op of a module call and after its last one it is of ``forward``. ``time`` has what ran in functions that the line
    called, too; ``calls`` counts ops that Python called there. What no line is known of is *unknown*.

    Args:
        trace: with stacks, of ``torchprof.profile(stacks=True)``. Files of ``torch.profiler`` have them that were recorded with
            ``with_stack=True``; they know functions and no lines.
        libraries: lines of libraries have rows of their own.
        backward_at_call: backward is of the line that called it.

    Raises:
        ArgumentError: the trace has no stacks.

    Example:
        >>> print(torchprof.by_line(prof.trace).head(20))
    """
    records = _records(trace, False, libraries, backward_at_call)
    has_lines = any(record["line"] is not None for record in records)
    if has_lines:
        for record in records:
            if record["line"] is None and record["file"] is not None:
                record["note"] = BETWEEN
    return _table(trace, "Line", records, "flops_self", libraries, [] if has_lines or not len(trace.stacks) else [NO_LINES])


def by_function(trace: Trace, *, libraries: bool = False, backward_at_call: bool = False) -> Table:
    """What every function of the program cost per step, most self time first, like `by_line`.

    ``self`` is the time of its own lines and of the libraries that they called, and adds up; ``time`` has what ran in functions
    that it called as well, and of these the backward passes. A function that calls itself counts once. ``calls`` counts ops
    here too, and not calls of the function.

    Args:
        trace, libraries, backward_at_call: as for `by_line`.

    Raises:
        ArgumentError: as `by_line`.

    Example:
        >>> print(torchprof.by_function(prof.trace).sort("time").head(10))
    """
    return _table(trace, "Function", _records(trace, True, libraries, backward_at_call), "flops", libraries, [])


def _records(trace: Trace, functions: bool, libraries: bool, backward_at_call: bool) -> list[Record]:
    check_stacks(trace)
    flags = check_flag("libraries", libraries), check_flag("backward_at_call", backward_at_call)
    return place_records(trace, functions=functions, libraries=flags[0], at_call=flags[1])


def check_stacks(trace: Trace) -> None:
    """Raise ArgumentError unless the trace has stacks."""
    check_trace(trace)
    if not len(trace.stacks) and not trace.facts.get("stacks"):  # a recording in which nothing ran has no lines
        how = (
            "with_stack=True"
            if "source" in trace.facts
            else "stacks=True, the default of torchprof.profile, or torch.profiler with with_stack=True"
        )
        raise ArgumentError(f"trace has no stacks of Python, which say what line did what: record with {how}")


def with_sources(trace: Trace, records: list[Record]) -> None:
    """Add the text of their lines to records; of a function, that of its first line."""
    texts: dict[str, list[str] | None] = {}
    for record in records:
        file, line = record["file"], record["line"] or record["first_line"]
        if file is not None and file not in texts:
            texts[file] = source_lines(trace, file)
        lines = texts.get(file) if file is not None else None
        record["source"] = lines[line - 1].strip() if lines is not None and line and line <= len(lines) else ""


def _table(trace: Trace, title: str, records: list[Record], flops: str, libraries: bool, below: list[str | About]) -> Table:
    with_sources(trace, records)
    columns = list(COLUMNS)
    on_device = has_kernels(trace)
    if on_device:
        columns[3:3] = FIGURES["device"]
    columns = [*columns, flops, *(FIGURES["memory"] if memory_is_known(trace) else ()), "source"]
    columns = [name for name in columns if not records or name in records[0]]
    shown = worth_showing(records, columns, OPTIONAL)
    unknown = {name for record in records for name in record[f"{flops}_unknown"]} if flops in shown else ()
    lines = (
        *footer(trace),
        *_shares(trace, records),
        *below,
        *_libraries(trace, libraries),
        *_left_out(trace, records),
        *_memory(trace),
        *unknown_flops(unknown, trace),
    )
    table = Table(title, records, shown, lines)
    if not records:
        return table
    return table.sort("self").sort("device_self") if on_device else table.sort("self")


def _shares(trace: Trace, records: list[Record]) -> Iterator[About]:
    yield coverage(trace, "share", "the self time of all rows", sum(record["self"] for record in records))
    if has_kernels(trace) and records and "device_self" in records[0]:
        yield coverage(trace, "device_share", "the device time of all rows", sum(record["device_self"] for record in records))


def _libraries(trace: Trace, libraries: bool) -> list[str]:
    if libraries or not len(trace.stacks):
        return []
    if not has_user_code(trace):
        return ["Libraries: there is no other code, so that their lines are shown"]
    return ["Libraries: in the lines that called them; libraries=True shows them"]


def _left_out(trace: Trace, records: list[Record]) -> Iterator[str]:
    """Which files have no text beside their lines, though they are there."""
    without = {record["file"] for record in records if record["file"] is not None and not record["source"]}
    if files := sorted(os.path.basename(file) for file in without if is_other_text(trace, file)):
        yield f"Text left out: {', '.join(files)}, changed since the recording or unreadable; trace.with_source() keeps it"


def _memory(trace: Trace) -> list[str | About]:
    costs = memory_costs(trace)
    if costs is None:
        return []
    before = int(costs.allocations["bytes"][costs.at_peak & (costs.allocations["start"] < 0)].sum())
    of_unknown = "; what was there before the recording is unknown" if before else ""
    return [About(FIGURES["memory"], f"At peak: held on {costs.device} when the most was held{of_unknown}")]
