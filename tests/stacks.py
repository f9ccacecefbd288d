"""What Python says of stacks while a program runs, and what a trace says of them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import torch

from torchprof.analysis.python_frames import python_frames
from torchprof.trace.trace import Trace

At = tuple[str, str, int | None]
"""A frame: the name of the function, its file, and the line that runs."""

TRUTH = "truth "


def stack_of(frame: FrameType | None) -> list[At]:
    """What Python says, the outermost first."""
    found: list[At] = []
    while frame is not None:
        found.append((frame.f_code.co_qualname, frame.f_code.co_filename, frame.f_lineno))
        frame = frame.f_back
    return found[::-1]


def stacks_in(trace: Trace) -> list[list[At]]:
    """What every row of ``trace.stacks`` says, the outermost first."""
    found: list[list[At]] = []
    for frame, parent in zip(python_frames(trace), trace.stacks["parent"].tolist(), strict=True):
        found.append([*(found[parent] if parent >= 0 else []), (frame.name, frame.file or "?", frame.line)])
    return found


def stack_in(trace: Trace, row: int) -> list[At]:
    """What one of the rows says; empty of -1."""
    return stacks_in(trace)[row] if row >= 0 else []


@dataclass
class Traced:
    """The stacks at every line that ran under `traced`, by the range that was open from there to the next."""

    stacks: list[list[At]] = field(default_factory=list)

    def of_ops(self, trace: Trace) -> Iterator[tuple[int, list[At]]]:
        """The rows of ops that are inside no other op, each with its stack."""
        names = [trace.strings[name] for name in trace.op_names.tolist()]
        parents = trace.ops["parent"].tolist()
        for row, parent in enumerate(parents):
            if parent >= 0 and names[parent].startswith(TRUTH) and not names[row].startswith(TRUTH):
                yield row, self.stacks[int(names[parent].removeprefix(TRUTH))]


@contextmanager
def traced() -> Iterator[Traced]:
    """Follow a program by ``sys.settrace``: whenever another line runs, a function begins or ends, a range is opened."""
    found = Traced()
    current: list[Any] = []

    def now_at(frame: FrameType | None) -> None:
        while current:
            current.pop().__exit__(None, None, None)
        found.stacks.append(stack_of(frame))
        current.append(torch._C._profiler._RecordFunctionFast(f"{TRUTH}{len(found.stacks) - 1}"))
        current[0].__enter__()

    def follow(frame: FrameType, event: str, _: Any) -> Any:
        now_at(frame.f_back if event == "return" else frame)
        return follow

    before = sys.gettrace()
    sys.settrace(follow)
    try:
        yield found
    finally:
        sys.settrace(before)
        while current:
            current.pop().__exit__(None, None, None)
