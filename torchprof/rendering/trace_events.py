"""Pieces of the Trace Event format that Perfetto and chrome://tracing read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

__all__ = ["CHUNK", "FIRST_THREAD", "chunks", "complete", "microseconds"]

CHUNK: Final = 20_000
"""Rows that are text at one time: some 10 MB."""

FIRST_THREAD: Final = 3
"""The track of the first row of ``trace.threads``; tracks before it are of steps and phases."""


def microseconds(ns: int) -> str:
    """As a decimal number, to the nanosecond."""
    return f"{ns // 1000}.{ns % 1000:03d}"


def chunks(count: int) -> Iterator[slice]:
    """Slices of so many rows, a chunk each."""
    return (slice(first, first + CHUNK) for first in range(0, count, CHUNK))


def complete(tid: int, category: str, name: str, start: int, end: int, pid: int = 1, args: str = "") -> str:
    """A complete event. ``name`` is JSON, and so is ``args``, an object without its braces, where there is one."""
    more = f',"args":{{{args}}}' if args else ""
    return (
        f'{{"ph":"X","pid":{pid},"tid":{tid},"cat":"{category}",'
        f'"ts":{microseconds(start)},"dur":{microseconds(end - start)},"name":{name}{more}}}'
    )
