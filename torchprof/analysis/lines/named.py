"""Functions and files by the names that people write: ``Net.forward``, ``net.py:Net.forward``, ``net.py``."""

from __future__ import annotations

import re
from typing import Final

from torchprof.analysis.lines.file_names import short_files
from torchprof.analysis.lines.source_range import SourceRange
from torchprof.errors import ArgumentError
from torchprof.trace.trace import Trace
from torchprof.wording import nearest

__all__ = ["function_named"]

IN_FILE: Final = re.compile(r"(?P<file>.+):(?:(?P<line>\d+) )?(?P<name>[^:]+)")
"""``net.py:Net.forward``, and ``net.py:8 Net.forward``, as `torchprof.by_function` has it."""
MOST_NAMED: Final = 6


def function_named(trace: Trace, text: str) -> SourceRange | None:
    """The function of a trace that is meant; None: none is, but perhaps a file.

    A function is named as Python does, or by the end of that: ``forward`` where only one is named so.

    Raises:
        ArgumentError: several functions are named so; or none of this file.
    """
    if text.replace("\\", "/").endswith(".py"):
        return None
    functions = _functions(trace)
    found = {key: name for key, name in functions.items() if name == text} or _ending(functions, text)
    in_file = IN_FILE.fullmatch(text)
    if not found and in_file is not None:
        here = {key: name for key, name in functions.items() if _is_file(key[0], in_file["file"])}
        if in_file["line"]:
            here = {key: name for key, name in here.items() if key[1] == int(in_file["line"])}
        name = in_file["name"]
        found = {key: each for key, each in here.items() if each == name} or _ending(here, name)
        if here and not found:
            raise ArgumentError(
                f"what={text!r}: {in_file['file']} has no function of this name in the trace{_near(name, here)}"
            )
    if len(found) > 1:
        files = short_files({file for file, _ in found})
        named = [f"{files[file]}:{line} {name}" for (file, line), name in found.items()]
        more = ", ..." if len(named) > MOST_NAMED else ""
        raise ArgumentError(
            f"what={text!r} could be any of {', '.join(map(repr, named[:MOST_NAMED]))}{more}: give one of these"
        )
    for (file, line), name in found.items():
        return SourceRange(name, file, line, line)
    if text.replace(".", "").replace("<locals>", "").isidentifier():
        raise ArgumentError(f"what={text!r} is no function and no file of the trace{_near(text, functions)}")
    return None


def _functions(trace: Trace) -> dict[tuple[str, int], str]:
    """The names of the functions whose source is known, by file and first line."""
    strings = trace.strings
    rows = zip(*(trace.functions[name].tolist() for name in ("name", "file", "first_line")), strict=True)
    return {(strings[file], line): strings[name] for name, file, line in rows if file >= 0 and line >= 1}


def _ending(functions: dict[tuple[str, int], str], text: str) -> dict[tuple[str, int], str]:
    return {key: name for key, name in functions.items() if name.endswith(f".{text}")}


def _is_file(file: str, text: str) -> bool:
    return f"/{file}".replace("\\", "/").endswith("/" + text.replace("\\", "/").lstrip("/"))


def _near(name: str, functions: dict[tuple[str, int], str]) -> str:
    near = nearest(name, functions.values())
    return f": did you mean {near!r}?" if near else ": torchprof.by_function(trace) lists them"
