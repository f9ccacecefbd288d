"""Stacks of Python as exports show them: with the frames of libraries, or without."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from torchprof.analysis.lines.file_names import place_text, short_files
from torchprof.analysis.lines.user_code import counted_rows
from torchprof.analysis.python_frames import python_frames
from torchprof.trace.trace import Trace

__all__ = ["Frame", "PythonStacks"]

Ints = npt.NDArray[np.int64]


class Frame(NamedTuple):
    """What a flame graph shows as one bar.

    Attributes:
        name: of a phase, a module, an op, a kernel or a function.
        place: of a function, its file without folders and a line; else empty.
        file, line: of a function, where they are known: the line that was running or, where that is not known, the first.
    """

    name: str
    place: str = ""
    file: str | None = None
    line: int | None = None

    @property
    def text(self) -> str:
        """``Net.forward (net.py:12)``."""
        return f"{self.name} ({self.place})" if self.place else self.name


class PythonStacks:
    """Rows of ``trace.stacks`` that are shown.

    Attributes:
        shown: for every row, the row in its place: itself or, of a library, the one of the user's code that called it. Where
            there is none, a stack is shown as it is.
        above: for every row that is shown, the one that is shown around it; -1: none.
    """

    def __init__(self, trace: Trace, libraries: bool) -> None:
        self._trace = trace
        self.shown: Ints = np.arange(len(trace.stacks))
        self.above: Ints = trace.stacks["parent"].astype(np.int64)
        if not libraries:
            counted = np.append(counted_rows(trace, False), -1)
            self.shown = np.where(counted[:-1] >= 0, counted[:-1], self.shown)
            self.above = np.where(counted[:-1] >= 0, counted[self.above], self.above)

    def frames(self, *, lines: bool = True) -> list[Frame]:
        """The frame of every row, at the line that was running, or without ``lines`` where its function begins."""
        found = python_frames(self._trace)
        files = short_files({frame.file for frame in found if frame.file is not None})
        frames = []
        for name, file, first_line, line in found:
            at = first_line if line is None or not lines else line
            frames.append(Frame(name, place_text(files, file, at), file, at))
        return frames
