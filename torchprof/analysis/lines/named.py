"""Functions and files by the names that people write: ``Net.forward``, ``net.py:Net.forward``, ``net.py``."""

from __future__ import annotations

import os
import re
from typing import Final

from torchprof.analysis.lines.file_names import short_files
from torchprof.analysis.lines.source_range import SourceRange
from torchprof.errors import ArgumentError
from torchprof.trace.library_files import is_library
from torchprof.trace.trace import Trace
from torchprof.wording import nearest

__all__ = ["function_named"]

IN_FILE: Final = re.compile(r"(?P<file>.+):(?:(?P<line>\d+) )?(?P<name>[^:]+)")
"""``net.py:Net.forward``, and ``net.py:8 Net.forward``, as `torchprof.by_function` has it."""
MOST_NAMED: Final = 6
Functions = dict[tuple[str, int], str]
"""Names by file and first line."""


def function_named(trace: Trace, text: str) -> SourceRange | None:
    """The function of a trace that is meant; None: none is, but perhaps a file.

    A function is named as Python does, or by the end of that: ``forward`` where only one is named so.

    Raises:
        ArgumentError: several functions are named so; or none of this file.
    """
    files = [trace.strings[row] for row in set(trace.functions["file"].tolist()) if row >= 0]
    if text.endswith(".py") or os.path.isfile(text) or any(_is_file(file, text) for file in files):
        return None
    functions = _functions(trace)
    found = _of_name(functions, text)
    if not found and (in_file := IN_FILE.fullmatch(text)) is not None:
        found = _in_file(functions, text, in_file["file"], in_file["name"], int(in_file["line"] or -1))
    if len(found) > 1:  # the user's own are meant, as a rule
        found = {key: name for key, name in found.items() if not is_library(key[0])} or found
    if len(found) > 1:
        short = short_files({file for file, _ in found})
        named = [repr(f"{short[file]}:{line} {name}") for (file, line), name in found.items()]
        more = ", ..." if len(named) > MOST_NAMED else ""
        raise ArgumentError(f"what={text!r} could be any of {', '.join(named[:MOST_NAMED])}{more}: give one of these")
    for (file, line), name in found.items():
        return SourceRange(name, file, line, line)
    if text.replace(".", "").replace("<locals>", "").isidentifier():
        raise ArgumentError(f"what={text!r} is no function and no file of the trace{_near(text, functions)}")
    return None


def _in_file(functions: Functions, text: str, file: str, name: str, line: int) -> Functions:
    """The functions of this name in this file, and that begin in this line, unless it is -1."""
    here = {key: each for key, each in functions.items() if _is_file(key[0], file)}
    found = {key: each for key, each in _of_name(here, name).items() if line in (-1, key[1])}
    if here and not found:
        raise ArgumentError(f"what={text!r}: {file} has no such function in the trace{_near(name, here)}")
    if not here and file.endswith(".py"):
        raise ArgumentError(f"what={text!r}: nothing of {file} is in the trace")
    return found


def _functions(trace: Trace) -> Functions:
    """The names of the functions whose source is known, by file and first line."""
    strings = trace.strings
    rows = zip(*(trace.functions[name].tolist() for name in ("name", "file", "first_line")), strict=True)
    return {(strings[file], line): strings[name] for name, file, line in rows if file >= 0 and line >= 1}


def _of_name(functions: Functions, text: str) -> Functions:
    """Those of this name or, where there are none, those whose names end so."""
    found = {key: name for key, name in functions.items() if name == text}
    return found or {key: name for key, name in functions.items() if name.endswith(f".{text}")}


def _is_file(file: str, text: str) -> bool:
    return f"/{file}".replace("\\", "/").endswith("/" + text.replace("\\", "/").lstrip("/"))


def _near(name: str, functions: Functions) -> str:
    near = nearest(name, functions.values())
    return f": did you mean {near!r}?" if near else ": torchprof.by_function(trace) lists them"
