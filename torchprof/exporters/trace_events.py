"""Parts of the Trace Event format, which Perfetto and chrome://tracing read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

__all__ = ["CHUNK", "FIRST_THREAD", "chunks", "complete", "microseconds"]

CHUNK: Final = 20_000
"""The number of rows that are formatted at a time: about 10 MB of text."""

FIRST_THREAD: Final = 3
"""The track of the first row of ``trace.threads``. Tracks before it show steps and phases."""


def microseconds(ns: int) -> str:
    """Nanoseconds as a decimal number of microseconds, without rounding."""
    return f"{ns // 1000}.{ns % 1000:03d}"


def chunks(count: int) -> Iterator[slice]:
    """Slices of at most ``CHUNK`` rows that cover ``count`` rows."""
    return (slice(first, first + CHUNK) for first in range(0, count, CHUNK))


def complete(tid: int, category: str, name: str, start: int, end: int, pid: int = 1, args: str = "") -> str:
    """A complete event: a slice of a track.

    Args:
        tid, pid: the track, and the process it belongs to.
        name: as JSON, with its quotes.
        start, end: nanoseconds.
        args: members of a JSON object, without its braces; empty for none.
    """
    more = f',"args":{{{args}}}' if args else ""
    return (
        f'{{"ph":"X","pid":{pid},"tid":{tid},"cat":"{category}",'
        f'"ts":{microseconds(start)},"dur":{microseconds(end - start)},"name":{name}{more}}}'
    )
