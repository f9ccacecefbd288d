"""Frames of Python stacks: every row of ``stacks`` is one, and the rows of its callers are around it."""

from __future__ import annotations

from typing import NamedTuple

from torchprof.trace.trace import Trace

__all__ = ["Frame", "python_frames"]


class Frame(NamedTuple):
    """A function that was running.

    Attributes:
        name: of the function, with the classes and functions that it is defined in.
        file: where it is defined; None: not known, as of functions written in C.
        first_line: of its definition; None: not known.
        line: that was running; None: not known.
    """

    name: str
    file: str | None
    first_line: int | None
    line: int | None


def python_frames(trace: Trace) -> list[Frame]:
    """The frame of every row of ``trace.stacks``."""
    functions = [
        (trace.strings[name], trace.strings[file] if file >= 0 else None, first_line if first_line >= 0 else None)
        for name, file, first_line in trace.functions.tolist()
    ]
    frames = []
    for function, line in zip(trace.stacks["function"].tolist(), trace.stacks["line"].tolist(), strict=True):
        name, file, first_line = functions[function]
        frames.append(Frame(name, file, first_line, line if line >= 0 else None))
    return frames
