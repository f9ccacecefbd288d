"""`torchprof.annotate`: the source of a function with what its lines cost in the margin."""

from __future__ import annotations

import inspect
import tokenize
from contextlib import suppress
from typing import Any, Final

from torchprof.analysis.gpu.backend import has_kernels
from torchprof.analysis.lines.file_names import short_files
from torchprof.analysis.lines.named import function_named
from torchprof.analysis.lines.records import place_records
from torchprof.analysis.lines.source_range import SourceRange, source_range
from torchprof.analysis.lines.user_code import has_user_code
from torchprof.analysis.memory.steps import memory_is_known
from torchprof.analysis.records import Record
from torchprof.analysis.steps import step_times
from torchprof.errors import ArgumentError
from torchprof.rendering.units import format_ns
from torchprof.tables.by_line import check_stacks
from torchprof.tables.footer import footer, unknown_flops
from torchprof.tables.table import About, Table, worth_showing
from torchprof.trace.library_files import is_library
from torchprof.trace.source import source_lines
from torchprof.trace.trace import Trace

__all__ = ["annotate"]

COLUMNS: Final = "time share forward recompute backward optimizer".split()
ON_DEVICE: Final = ("device", "kernels", "synchronizations")
IN_MEMORY: Final = ("at_peak", "saved", "leaked")


def annotate(trace: Trace, what: Any) -> Table:
    """The source of a function with time, FLOPs and memory of every line in the margin, as line_profiler and scalene show it.

    Figures of a line have in them what ran in functions that it called, and the backward of both. In the line in which a
    function begins stands the Python between two of its lines, of which no line is known.

    Args:
        trace: with stacks, as for `torchprof.by_line`.
        what: a function, method, class, module, ``nn.Module`` (its ``forward``), code object, or the path of a file. What is
            wrapped around a function is left out; functions inside it are shown. Or the name of a function of the trace:
            ``"Net.forward"``, ``"net.py:Net.forward"``, or ``"forward"`` where only one of yours is named so.

    Raises:
        ArgumentError: the trace has no stacks, ``what`` is none of these, names several or is written in C, or its source is
            not there, or changed since.

    Example:
        >>> print(torchprof.annotate(prof.trace, model.forward))
    """
    check_stacks(trace)
    where = (function_named(trace, what) if isinstance(what, str) else None) or source_range(what)
    file = _file_in(trace, where)
    lines = source_lines(trace, file) or (source_lines(trace, where.file) if file != where.file else None)
    if lines is None:
        raise ArgumentError(
            f"what={what!r}: the source of {file} is not there, or changed since the recording: annotate before it does, or "
            "keep it with trace.with_source()"
        )
    first, last = _range(where, lines)
    libraries = is_library(file) and has_user_code(trace)
    records = place_records(trace, functions=False, libraries=libraries, with_called=True)
    of_lines: dict[int, list[Record]] = {}
    for record in records:
        record.pop("device_share", None)  # of its own, where all else has what was called
        line = record["line"] or record["first_line"]
        if record["file"] == file and line is not None:
            of_lines.setdefault(line, []).append(record)
    shown = {line: _together(of_lines[line]) for line in range(first, last + 1) if line in of_lines}
    figures = dict.fromkeys(name for record in records for name in record)
    return _table(trace, where, file, lines[first - 1 : last], first, shown, figures)


def _together(records: list[Record]) -> Record:
    """The figures of a line, and of the function that begins there."""
    total = dict(records[0])
    for record in records[1:]:
        for name, value in record.items():
            if name.endswith("_unknown"):
                total[name] = sorted({*total[name], *value})
            elif isinstance(value, int | float) and name not in ("line", "first_line"):
                total[name] = value + (total[name] or 0)
    return total


def _table(
    trace: Trace, where: SourceRange, file: str, lines: list[str], first: int, shown: dict[int, Record], figures: Record
) -> Table:
    """The table of these lines.

    Args:
        shown: the figures of lines that have some.
        figures: the names of all figures.
    """
    times = step_times(trace)
    whole = float(times.time.mean()) if times is not None and len(times.time) else 0.0
    width = len(str(first + len(lines) - 1))
    unknown = {name: () if name.endswith("_unknown") else None for name in figures}
    rows: list[Record] = []
    for line, text in enumerate(lines, start=first):
        record = shown.get(line)
        share = record["time"] / whole if record is not None and whole else None
        rows.append(
            {**unknown, **(record or {}), "name": f"{line:>{width}}", "line": line, "share": share, "code": text.expandtabs(4)}
        )
    columns = [*COLUMNS, *(ON_DEVICE if has_kernels(trace) else ()), "flops", *(IN_MEMORY if memory_is_known(trace) else ())]
    columns = [name for name in columns if name in figures] if shown else []
    columns = [*worth_showing(rows, columns, tuple(name for name in columns if name != "time")), "code"]
    names = {name for record in shown.values() for name in record["flops_unknown"]}
    below: tuple[str | About, ...] = (
        *_of_function(trace, where, file, whole),
        *footer(trace),
        About(
            ("share",), f"Share: of {'a step' if len(trace.steps) > 1 else 'the step' if len(trace.steps) else 'the recording'}"
        ),
        *_what_is_known(trace, shown),
        *unknown_flops(names, trace),
    )
    title = short_files({file})[file]
    return Table(
        title,
        rows,
        tuple(columns),
        below,
        blank=frozenset(columns),
        unknown="",
        is_dim=lambda row: row["time"] is None if shown else False,
    )


def _of_function(trace: Trace, where: SourceRange, file: str, whole: float) -> list[str]:
    """What the function cost as a whole."""
    libraries = is_library(file) and has_user_code(trace)
    for record in place_records(trace, functions=True, libraries=libraries) if where.name else ():
        if record["file"] == file and record["first_line"] == where.first:
            of = "the step" if len(trace.steps) else "the recording"
            share = f", {100 * record['time'] / whole:.1f}% of {of}" if whole else ""
            return [f"{where.name}: {format_ns(round(record['time']))} with all that it called{share}"]
    return []


def _what_is_known(trace: Trace, shown: dict[int, Record]) -> list[str]:
    if not shown:
        return ["Nothing was recorded in these lines"]
    if not (trace.stacks["line"] >= 0).any():
        return ["The trace knows no lines, only functions and where these begin"]
    return ["Time: with what ran in functions that the line called, and the backward of both"]


def _file_in(trace: Trace, where: SourceRange) -> str:
    """The name of the file in the trace, which may be recorded elsewhere, or by torch.profiler, which cuts names."""
    files: list[str] = [trace.strings[row] for row in sorted(set(trace.functions["file"].tolist())) if row >= 0]
    if where.file in files:
        return where.file
    wanted = where.file.replace("\\", "/")
    names = {file: file.replace("\\", "/") for file in files}
    ends = [file for file, name in names.items() if wanted.endswith(f"/{name.lstrip('/')}") or name.endswith(f"/{wanted}")]
    if len(ends) > 1:
        ends = [max(ends, key=len)] if all(max(ends, key=len).endswith(end) for end in ends) else ends
    if len(ends) == 1:
        return ends[0]
    if ends and not where.name:
        raise ArgumentError(f"what={where.file!r} could be any of {', '.join(map(repr, ends))}: give the whole path")
    return where.file


def _range(where: SourceRange, lines: list[str]) -> tuple[int, int]:
    """The first and last line of the definition."""
    if where.last is None:
        return 1, len(lines)
    first, last = min(where.first, len(lines)), where.last
    with suppress(SyntaxError, tokenize.TokenError):  # what Python knows of it stands
        last = max(last, first + len(inspect.getblock([f"{line}\n" for line in lines[first - 1 :]])) - 1)
    return first, min(last, len(lines))
