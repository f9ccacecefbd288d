"""The streams of a program for CUDA: of each, the caching allocator has blocks of its own.

FSDP2 gathers on one stream, reduces on another, and computes on a third. Its mesh is one of the CPU here, so it asks
``torch.cpu`` for streams. These have numbers, and where another one becomes the current one, the recording is marked. The trace
has that as a fact.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from torchprof import _native
from torchprof.analysis.spans import latest_before
from torchprof.estimation.fake import in_order
from torchprof.estimation.fake.callers import in_an_estimate, replaced
from torchprof.trace.schema import Rows
from torchprof.trace.trace import Trace

__all__ = ["IN_PINNED_MEMORY", "ON_HOST", "mark_stream", "numbered_streams", "streams_of", "with_streams"]

ON_HOST: Final = -1
IN_PINNED_MEMORY: Final = -2
"""In place of a stream: what is allocated is on the host, there in pinned memory."""

MARK: Final = "torchprof.stream "
"""What the name of a mark begins with; the number of the stream that is the current one from there on follows."""
FACT: Final = "streams"
"""The fact of a trace: nanoseconds, and the number of the stream that is the current one from there on."""

Ints = npt.NDArray[np.int64]


class Stream(in_order.Stream):
    """A stream with a number: 0 is the default one."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.device = torch.device("cpu")
        self._entered: list[Any] = []

    def __enter__(self) -> Stream:
        self._entered.append(torch.cpu.stream(self))  # type: ignore[arg-type]
        self._entered[-1].__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._entered.pop().__exit__(*error)


@contextmanager
def numbered_streams() -> Iterator[None]:
    """Streams of ``torch.cpu``, and those that the program has for any accelerator, are numbered, and recordings are marked
    where they change, until the block ends."""
    made = [Stream(0)]
    current = [made[0]]

    def new(*args: Any, **options: Any) -> Stream:
        made.append(Stream(len(made)))
        return made[-1]

    @contextmanager
    def entered(stream: Any) -> Iterator[None]:
        if not isinstance(stream, Stream) or stream is current[-1]:
            yield
            return
        current.append(stream)
        try:
            mark_stream(stream.number)
            yield
        finally:
            current.pop()
            mark_stream(current[-1].number)

    with ExitStack() as stack:
        for name, value in (
            ("Stream", new),
            ("Event", in_order.Event),
            ("stream", entered),
            ("current_stream", lambda device=None: current[-1]),
        ):
            stack.enter_context(replaced(torch.cpu, name, value))
        for owner, name, answer in (
            (torch, "Stream", new),
            (torch, "Event", in_order.Event),
            (torch.accelerator, "current_stream", lambda device=None: current[-1]),
        ):
            stack.enter_context(replaced(owner, name, in_an_estimate(getattr(owner, name), answer)))
        yield


def mark_stream(number: int) -> None:
    """What is allocated from here on is on the stream with this number, or on the host."""
    if _native.is_recording():
        _native.mark(f"{MARK}{number}")


def with_streams(trace: Trace) -> Trace:
    """The trace of a run with `numbered_streams`: which stream was the current one is a fact, and none of its marks."""
    names = [trace.strings[name] for name in trace.marks["name"].tolist()]
    changes = np.array([name.startswith(MARK) for name in names], dtype=np.bool_)
    found = [
        [time, int(name.removeprefix(MARK))]
        for time, name in zip(trace.marks["time"].tolist(), names, strict=True)
        if name.startswith(MARK)
    ]
    return replace(trace, marks=trace.marks[~changes], facts={**trace.facts, FACT: sorted(found, key=lambda each: each[0])})


def streams_of(trace: Trace, allocations: Rows) -> Ints:
    """The stream that each row of allocations was allocated on, by its number; 0, the default one, where none is known.

    Args:
        trace: as `with_streams` gives it.
        allocations: those of the trace, or of an account of it.
    """
    changes = np.array([[-1, 0], *trace.facts.get(FACT, ())], dtype=np.int64)
    streams: Ints = changes[latest_before(changes[:, 0], allocations["start"]), 1]
    return streams
