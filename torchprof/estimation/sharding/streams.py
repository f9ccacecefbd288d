"""The streams of a program for CUDA: of each, the caching allocator has blocks of its own.

FSDP2 gathers on one stream, reduces on another, and computes on a third. Its mesh is one of the CPU here, so it asks
``torch.cpu`` for streams. These have numbers, and the trace has a range for as long as one of them is the current one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from torchprof.analysis.spans import closed_ends
from torchprof.estimation.fake.callers import replaced
from torchprof.trace.schema import Rows
from torchprof.trace.trace import Trace

__all__ = ["numbered_streams", "streams_of"]

RANGE: Final = "torchprof.stream "
"""What the name of a range begins with; the number of the stream follows."""

Ints = npt.NDArray[np.int64]


class Stream:
    """A stream with a number: 0 is the default one. All is done at once, in order."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.device = torch.device("cpu")

    def wait_stream(self, stream: Any) -> None:
        """There is nothing to wait for."""

    def wait_event(self, event: Any) -> None:
        """There is nothing to wait for."""

    def synchronize(self) -> None:
        """There is nothing to wait for."""

    def query(self) -> bool:
        return True

    def record_event(self, event: Any = None) -> Event:
        return event if isinstance(event, Event) else Event()


class Event:
    """An event: it has happened."""

    def __init__(self, *args: Any, **options: Any) -> None:
        """Nothing of it is kept."""

    def record(self, stream: Any = None) -> Event:
        return self

    def wait(self, stream: Any = None) -> None:
        """It has happened."""

    def synchronize(self) -> None:
        """It has happened."""

    def query(self) -> bool:
        return True


@contextmanager
def numbered_streams() -> Iterator[None]:
    """Streams of ``torch.cpu`` are numbered, and the trace has ranges of them, until the block ends."""
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
            with torch.profiler.record_function(f"{RANGE}{stream.number}"):
                yield
        finally:
            current.pop()

    with ExitStack() as stack:
        for name, value in (
            ("Stream", new),
            ("Event", Event),
            ("stream", entered),
            ("current_stream", lambda device=None: current[-1]),
        ):
            stack.enter_context(replaced(torch.cpu, name, value))
        yield


def streams_of(trace: Trace, allocations: Rows) -> Ints:
    """The stream that each row of allocations was allocated on, by its number.

    Args:
        trace: of a run with `numbered_streams`.
        allocations: those of the trace, or of an account of it.
    """
    names = trace.op_names
    numbers = {index: int(name.removeprefix(RANGE)) for index, name in enumerate(trace.strings) if name.startswith(RANGE)}
    streams = np.zeros(len(allocations), dtype=np.int64)
    rows = np.flatnonzero(np.isin(names, [*numbers]))
    if not len(rows):
        return streams
    order = np.argsort(allocations["start"], kind="stable")
    starts, ends = trace.ops["start"][rows], closed_ends(trace, trace.ops)[rows]
    first = np.searchsorted(allocations["start"], starts, "left", sorter=order)
    last = np.searchsorted(allocations["start"], ends, "right", sorter=order)
    # Ranges lie in one another: the inner one begins later, and is the one that counts.
    for range_ in np.argsort(starts, kind="stable"):
        streams[order[first[range_] : last[range_]]] = numbers[int(names[rows[range_]])]
    return streams
