"""Aligned text: names on the left, cells on the right, notes behind. Plain, or styled by rich on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from torchprof.terminal import is_terminal

__all__ = ["Line", "as_text", "branches", "elide", "incomplete", "lay_out", "print_lines"]

WIDEST_NAME: Final = 64

STYLES: Final = {"header": "bold", "rule": "dim", "root": "bold", "module": "", "quiet": "dim", "total": ""}


class Line(NamedTuple):
    """A line of text, and what kind it is: a key of ``STYLES``."""

    kind: str
    text: str


def lay_out(
    headers: Sequence[str],
    names: Sequence[str],
    cells: Sequence[Sequence[str]],
    kinds: Sequence[str],
    notes: Sequence[str],
    totals: Sequence[str],
    left: frozenset[int] = frozenset(),
) -> Iterator[Line]:
    """The lines of a table: headers, a row for each name, then ``totals``, with rules between them.

    ``headers[0]`` stands above the names. Cells of the columns in ``left`` are aligned to the left, others to the right.
    """
    columns = [names, *([row[index] for row in cells] for index in range(len(headers) - 1))]
    widths = [max(map(len, [header, *column])) for header, column in zip(headers, columns, strict=True)]
    noted = max(map(len, notes), default=0)
    width = sum(widths) + 2 * (len(headers) - 1) + (2 + noted if noted else 0)

    def line(name: str, values: Sequence[str], note: str = "") -> str:
        parts = [
            name.ljust(widths[0]),
            *(
                value.ljust(size) if index in left else value.rjust(size)
                for index, (value, size) in enumerate(zip(values, widths[1:], strict=True))
            ),
            note,
        ]
        return "  ".join(parts).rstrip()

    yield Line("rule", "-" * width)
    yield Line("header", line(headers[0], headers[1:]))
    yield Line("rule", "=" * width)
    for name, values, kind, note in zip(names, cells, kinds, notes, strict=True):
        yield Line(kind, line(name, values, note))
    yield Line("rule", "=" * width if totals else "-" * width)
    for text in totals:
        yield Line("total", text)
    if totals:
        yield Line("rule", "-" * width)


def as_text(lines: Iterator[Line]) -> str:
    """The lines as plain text, the same wherever they are printed."""
    return "\n".join(line.text for line in lines)


def print_lines(lines: Iterator[Line]) -> None:
    """Print to standard output: in colour where it is a terminal, otherwise as plain text in whatever encoding it has."""
    if not is_terminal(sys.stdout):
        encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
        print(as_text(lines).encode(encoding, errors="replace").decode(encoding))
        return
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)
    for kind, line in lines:
        text = Text(line, style=STYLES[kind])
        if kind in ("module", "root"):
            text.highlight_regex(r"\([^()]*\)", "cyan")
            text.highlight_regex(r"^[ │├└─]+", "dim")
        elif kind == "total":
            text.highlight_regex(r"^[^:]+:", "bold")
        console.print(text)


def branches(depths: Sequence[int]) -> tuple[list[str], list[str]]:
    """What stands before every row's name, and before what belongs to the row, so that the tree can be seen."""
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


def incomplete(losses: Mapping[str, int]) -> list[str]:
    """What a table must say of rows that were lost."""
    why = {"kernels": "did not fit the budget, or the device's own buffers"}
    return [
        f"INCOMPLETE: {count:,} {table.replace('_', ' ')} {why.get(table, 'did not fit the budget')}; figures above miss them"
        for table, count in losses.items()
    ]
