"""The streams of a program for CUDA: of each, the caching allocator has blocks of its own.

FSDP2 gathers on one stream, reduces on another, and computes on a third. Its mesh is one of the CPU here, so it asks
``torch.cpu`` for streams, and the program asks ``torch.cuda``, or for those of any accelerator. They are the same ones. These
have numbers, and where another one becomes the current one, the recording is marked. The trace has that as a fact.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from torchprof import _native
from torchprof.analysis.spans import latest_before
from torchprof.estimation.fake.callers import in_an_estimate, remark, replaced
from torchprof.estimation.rules.cuda_queries import IN_FORWARD, Event, InOrder
from torchprof.trace.schema import Rows
from torchprof.trace.trace import Trace

__all__ = ["IN_PINNED_MEMORY", "ON_HOST", "POOL", "mark_stream", "numbered_streams", "streams_of", "with_streams"]

ON_HOST: Final = -1
IN_PINNED_MEMORY: Final = -2
"""In place of a stream: what is allocated is on the host, there in pinned memory."""

POOL: Final = 32
"""Streams that PyTorch has for whoever asks for one, of each priority."""
MARK: Final = "torchprof.stream "
"""What the name of a mark begins with; the number of the stream that is the current one from there on follows."""
FACT: Final = "streams"
"""The fact of a trace: nanoseconds, and the number of the stream that is the current one from there on."""

Ints = npt.NDArray[np.int64]


class Stream(InOrder):
    """A stream with a number: 0 is the default one. No `InPlace`, which Dynamo would take for a stream of PyTorch's."""

    def __init__(self, number: int) -> None:
        self.number = self.stream_id = self.cuda_stream = number
        self.device = torch.device("cuda", 0)
        self.device_index = 0
        self._entered: list[Any] = []

    def __enter__(self) -> Stream:
        self._entered.append(torch.cuda.stream(self))  # type: ignore[arg-type]
        self._entered[-1].__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._entered.pop().__exit__(*error)


class _Streams:
    """Those of PyTorch's pool, of which each is given in turn, for each priority; and which is the current one."""

    def __init__(self) -> None:
        self.default = self._current = Stream(0)
        self._given: dict[int, int] = {}
        self._numbers: dict[Any, int] = {}

    def new(self, device: Any = None, priority: int = 0, *, stream_id: int | None = None, **options: Any) -> Stream:
        if stream_id is not None:  # of one that is there
            return Stream(stream_id)
        given = self._given[priority] = self._given.get(priority, -1) + 1
        return self._numbered((priority, given % POOL))

    def external(self, stream_ptr: int, *args: Any, **options: Any) -> Stream:
        """One that another library has made."""
        return self._numbered(stream_ptr)

    def _numbered(self, key: Any) -> Stream:
        return Stream(self._numbers.setdefault(key, len(self._numbers) + 1))

    def current(self, device: Any = None) -> Stream:
        return self._current

    @contextmanager
    def entered(self, stream: Any) -> Iterator[None]:
        """It is the current one, until the block ends."""
        before = self._current
        try:
            self._switch(stream)
            yield
        finally:
            self._switch(before)

    def _switch(self, stream: Any) -> None:
        if isinstance(stream, Stream):
            if stream.number != self._current.number:
                mark_stream(stream.number)
            self._current = stream

    def set_by_program(self, stream: Any) -> None:
        """It is the current one from here on."""
        _note_forward(stream)
        self._switch(stream)

    def entered_by_program(self, stream: Any) -> AbstractContextManager[None]:
        """The same."""
        _note_forward(stream)
        return self.entered(stream)


def _note_forward(stream: Any) -> None:
    if isinstance(stream, Stream) and stream.number and torch.is_grad_enabled():
        remark(IN_FORWARD)


@contextmanager
def numbered_streams() -> Iterator[None]:
    """Streams are numbered, whomever they are asked of, and recordings are marked where they change, until the block ends."""
    streams = _Streams()
    with ExitStack() as stack:
        for name, value in (
            ("Stream", lambda priority=-1: streams.new(priority=priority)),
            ("Event", Event),
            ("stream", streams.entered),
            ("current_stream", streams.current),
        ):
            stack.enter_context(replaced(torch.cpu, name, value))
        for owner in (torch, torch.cuda):
            stack.enter_context(replaced(owner, "Stream", in_an_estimate(owner.Stream, streams.new, Stream)))
        for name, answer in (  # torch.accelerator asks torch.cuda
            ("ExternalStream", streams.external),
            ("stream", streams.entered_by_program),
            ("StreamContext", streams.entered_by_program),
            ("set_stream", streams.set_by_program),
            ("current_stream", streams.current),
            ("default_stream", lambda device=None: streams.default),
        ):
            stack.enter_context(replaced(torch.cuda, name, in_an_estimate(getattr(torch.cuda, name), answer)))
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
