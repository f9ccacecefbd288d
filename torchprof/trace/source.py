"""The source text of the functions in a trace: kept in it, or read from the files and the cells of a notebook.

The text of a file that changed after the recording is none: what stands in a line now is not what ran.
"""

from __future__ import annotations

import linecache
import os
import re
import sys
import tokenize
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from torchprof.trace.library_files import is_library

if TYPE_CHECKING:
    from torchprof.trace.trace import Trace

__all__ = ["SOURCE_FACT", "found_on_path", "is_other_text", "source_lines", "with_source"]

SOURCE_FACT: Final = "source_files"
"""Name of the fact with the texts that were kept, by file."""
CLOCK_ERROR_NS: Final = 1_000_000
DEFINED: Final = re.compile(r"\s*(@|(async\s+)?def\b|class\b)|.*\blambda\b")


def source_lines(trace: Trace, file: str) -> list[str] | None:
    """The lines of the file of a function, as it was when the trace was recorded; None where they are not known."""
    kept: Mapping[str, str] = trace.facts.get(SOURCE_FACT, {})
    if file in kept:
        return kept[file].splitlines()
    lines = _read(trace, file)
    return lines if lines is not None and _fits(trace, file, lines) else None


def is_other_text(trace: Trace, file: str) -> bool:
    """Whether there is such a file, and its text is not what ran, or cannot be read."""
    return found_on_path(file) is not None and source_lines(trace, file) is None


def with_source(trace: Trace) -> dict[str, Any]:
    """The facts of a trace, with the texts of the user's own files that are known."""
    files = (trace.strings[row] for row in sorted(set(trace.functions["file"].tolist())) if row >= 0)
    found = {file: source_lines(trace, file) for file in files if not is_library(file)}
    texts = {file: "\n".join(lines) for file, lines in found.items() if lines is not None}
    return {**trace.facts, SOURCE_FACT: texts}


def found_on_path(file: str) -> str | None:
    """Where a file is; one without a root, as torch.profiler writes them, may be in any folder that modules come from."""
    if os.path.isabs(file):
        return file if os.path.isfile(file) else None
    places = (os.path.join(folder or os.curdir, file) for folder in (os.curdir, *sys.path) if isinstance(folder, str))
    return next(filter(os.path.isfile, places), None)


def _read(trace: Trace, file: str) -> list[str] | None:
    path = None if file.startswith("<") else found_on_path(file)
    if path is None:  # a cell of a notebook, or what else the running Python knows
        return [line.rstrip("\n") for line in linecache.getlines(file)] or None
    duration, origin = trace.facts.get("duration_ns", 0), trace.facts.get("origin_unix_ns", 0)
    try:
        if origin and Path(path).stat().st_mtime_ns > origin + duration + CLOCK_ERROR_NS:
            return None
        with tokenize.open(path) as text:
            return text.read().splitlines()
    except (OSError, SyntaxError, UnicodeDecodeError, ValueError):
        return None


def _fits(trace: Trace, file: str, lines: list[str]) -> bool:
    """Whether most functions of this file begin where the text has definitions: else it is another text."""
    fit = misfit = 0
    for name, of_file, first_line in trace.functions.tolist():
        if of_file < 0 or first_line < 1 or trace.strings[of_file] != file:
            continue
        if trace.strings[name].rpartition(".")[2].isidentifier():  # no lambda, no module
            begins = first_line <= len(lines) and DEFINED.match(lines[first_line - 1]) is not None
            fit, misfit = fit + begins, misfit + (not begins)
    return fit >= misfit
