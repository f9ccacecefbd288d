"""Aligned text: names on the left, cells on the right, notes behind. Plain, or styled by rich on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator, Sequence
from typing import Final, NamedTuple

from torchprof.terminal import is_terminal

__all__ = ["Line", "as_text", "branches", "elide", "lay_out", "print_lines"]

WIDEST_NAME: Final = 64

STYLES: Final = {"header": "bold", "rule": "dim", "root": "bold", "row": "", "dim": "dim", "total": ""}


class Line(NamedTuple):
    """A line of text, and what kind it is: a key of ``STYLES``."""

    kind: str
    text: str


def lay_out(
    headers: Sequence[str],
    columns: Sequence[Sequence[str]],
    kinds: Sequence[str],
    notes: Sequence[str],
    footer: Sequence[str],
    left: Collection[int] = (0,),
) -> Iterator[Line]:
    """The lines of a table: headers, rows, then the footer, with rules between them.

    Args:
        headers: one for each column.
        columns: the texts of every row; the names come first.
        kinds: of the lines of the rows: ``"root"``, ``"row"`` or ``"dim"``.
        notes: what stands behind the last column of every row.
        footer: lines below.
        left: the columns that are aligned to the left; others are to the right.

    Example:
        -------------------
        Op         Calls  Time      headers
        ===================
        aten::mm       2  1 us      rows
        ===================
        One step; host time         footer
        -------------------
    """
    padded = []
    width = 2 * (len(headers) - 1)
    for at, (title, texts) in enumerate(zip(headers, columns, strict=True)):
        column = [title, *texts]
        size = max(map(len, column))
        width += size
        padded.append([text.ljust(size) for text in column] if at in left else [text.rjust(size) for text in column])
    if any(notes):
        width += 2 + max(map(len, notes))
        padded.append(["", *notes])
    header, *lines = ["  ".join(parts).rstrip() for parts in zip(*padded, strict=True)]
    yield Line("rule", "-" * width)
    yield Line("header", header)
    yield Line("rule", "=" * width)
    yield from map(Line, kinds, lines)
    yield Line("rule", "=" * width if footer else "-" * width)
    for text in footer:
        yield Line("total", text)
    if footer:
        yield Line("rule", "-" * width)


def as_text(lines: Iterator[Line]) -> str:
    """The lines as plain text, the same wherever they are printed."""
    return "\n".join(line.text for line in lines)


def print_lines(lines: Iterator[Line]) -> None:
    """Print to standard output: in color where it is a terminal, otherwise as plain text in whatever encoding it has."""
    if not is_terminal(sys.stdout):
        encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
        print(as_text(lines).encode(encoding, errors="replace").decode(encoding))
        return
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)
    for kind, line in lines:
        text = Text(line, style=STYLES[kind])
        if kind in ("row", "root"):
            text.highlight_regex(r"\([^()]*\)", "cyan")
            text.highlight_regex(r"^[ │├└─]+", "dim")
        elif kind == "total":
            text.highlight_regex(r"^[^:]+:", "bold")
        console.print(text)


def branches(depths: Sequence[int]) -> tuple[list[str], list[str]]:
    """Lines that draw a tree: what stands before every row's name, and before what is listed below the row.

    Net
    ├─ features
    │  └─ conv
    └─ fc
    """
    last = [True] * len(depths)  # no sibling follows
    following = [False] * (2 + max(depths, default=0))
    deepest = 0
    for index in range(len(depths) - 1, -1, -1):
        depth = depths[index]
        last[index] = not following[depth]
        following[depth + 1 : deepest + 1] = [False] * (deepest - depth)
        following[depth] = True
        deepest = depth
    prefixes, below = [], []
    trunk: list[str] = []
    for depth, is_last in zip(depths, last, strict=True):
        del trunk[max(depth - 1, 0) :]
        prefixes.append("".join(trunk) + ("" if depth == 0 else "└─ " if is_last else "├─ "))
        if depth:
            trunk.append("   " if is_last else "│  ")
        below.append("".join(trunk) + "   ")
    return prefixes, below


def elide(text: str, widest: int = WIDEST_NAME) -> str:
    """Cut a long name in the middle."""
    if len(text) <= widest:
        return text
    head = widest * 2 // 3
    return f"{text[:head]}…{text[head + 1 - widest :]}"
