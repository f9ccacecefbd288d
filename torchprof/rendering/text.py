"""Aligned text: names on the left, cells on the right, notes behind. Plain, or styled by rich on a terminal."""

from __future__ import annotations

import re
import sys
import textwrap
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import chain
from operator import itemgetter
from typing import Final, NamedTuple

from torchprof.rendering.cells import aligned, width_of, widths_of
from torchprof.rendering.fit import GAP, WIDEST_NAME, fit
from torchprof.rendering.grid import Grid, Part, Verbatim
from torchprof.rendering.names import cut, cut_in_the_middle, shortened
from torchprof.terminal import is_terminal, printable

__all__ = ["Line", "as_text", "branches", "lay_out", "lines_of", "print_lines"]

STYLES: Final = {"header": "bold", "rule": "dim", "root": "bold", "row": "", "dim": "dim", "failed": "bold red", "total": ""}

PARTS: Final = {
    "root": {r"\([^()]*\)": "cyan"},
    "row": {r"^[ │├└─…]+": "dim", r"\([^()]*\)": "cyan"},
    "total": {r"^[^:]+:": "bold"},
}
"""What has a style of its own inside a line."""
CLOSER: Final = re.compile("(.)[─ ] ")
"""A level of a tree, to be drawn in two columns instead of three."""
SHORTEST_LABEL: Final = 12
"""What is left of a name, however deep it stands in a tree."""


class Line(NamedTuple):
    """A line of text, and what kind it is: a key of ``STYLES``."""

    kind: str
    text: str


def lines_of(parts: Iterable[Part], width: int | None = None) -> Iterator[Line]:
    """The lines of what is printed, none wider than ``width`` but those that are shown to the character."""
    for part in parts:
        if isinstance(part, Grid):
            yield from lay_out(part, width)
        elif isinstance(part, Verbatim):
            yield from (Line("total", printable(text)) for text in part.text.split("\n"))
        else:
            yield from (Line("total", text) for text in _wrapped(printable(part), width))


def lay_out(grid: Grid, width: int | None = None) -> Iterator[Line]:
    """The lines of a table: headers, rows, then the footer, with rules between them.

    Example:
        -------------------
        Op         Calls  Time      headers
        ===================
        aten::mm       2  1 us      rows
        ===================
        One step; host time         footer
        -------------------
    """
    title, names, notes = printable(grid.title), list(map(printable, grid.names)), list(map(printable, grid.notes))
    columns = [[column.header, *map(printable, column.texts)] for column in grid.columns]
    prefixes, below = branches(grid.depths if grid.depths is not None else [0] * len(names))
    kinds: list[str] = list(grid.kinds)
    if grid.details is not None:
        details = [[(printable(text), printable(note)) for text, note in lines] for lines in grid.details]
        names = _interleaved(names, [[text for text, _ in lines] for lines in details])
        notes = _interleaved(notes, [[note for _, note in lines] for lines in details])
        kinds = _interleaved(kinds, [["dim"] * len(lines) for lines in details])
        prefixes = _interleaved(prefixes, [[f"{trunk}. "] * len(lines) for trunk, lines in zip(below, details, strict=True)])
        columns = [[header, *_interleaved(texts, [[""] * len(lines) for lines in details])] for header, *texts in columns]

    label_sizes = widths_of(names)
    sizes = [max(widths_of(column)) for column in columns]
    note_size = max(widths_of(notes), default=0)
    name_sizes = [len(prefix) + size for prefix, size in zip(prefixes, label_sizes, strict=True)]
    widest = max(width_of(title), max(name_sizes, default=0))
    if width is not None and widest + sum(sizes) + note_size + GAP * (len(sizes) + bool(note_size)) > width:
        prefixes = [CLOSER.sub(r"\1 ", prefix) for prefix in prefixes]
        name_sizes = [len(prefix) + size for prefix, size in zip(prefixes, label_sizes, strict=True)]
        widest = max(width_of(title), max(name_sizes, default=0))
    left = [column.left for column in grid.columns]
    kept, longest = fit(width, widest, sizes, left, [column.rank for column in grid.columns], note_size)
    names = _named(prefixes, names, name_sizes, min(longest, WIDEST_NAME))
    cells = [_cut([cut(title, longest), *names], longest, left=True)]
    cells += [_cut(columns[at], longest, left=True) if left[at] else aligned(columns[at], sizes[at], left=False) for at in kept]
    if any(notes):
        cells.append(_cut(["", *notes], longest, left=True))
    header, *rows = ["  ".join(parts).rstrip() for parts in zip(*cells, strict=True)]
    rule = sum(width_of(column[0]) for column in cells) + GAP * (len(cells) - 1)
    footer = list(grid.footer)
    if len(kept) < len(columns):
        without = [column.header for at, column in enumerate(grid.columns) if at not in kept]
        footer.append(f"Left out to fit {width} characters: {', '.join(without)}")
    yield Line("rule", "-" * rule)
    yield Line("header", header)
    yield Line("rule", "=" * rule)
    yield from map(Line, kinds, rows)
    yield Line("rule", "=" * rule if footer else "-" * rule)
    for text in footer:
        yield from (Line("total", line) for line in _wrapped(printable(text), width))
    if footer:
        yield Line("rule", "-" * rule)


def _named(prefixes: list[str], names: list[str], sizes: list[int], longest: int) -> list[str]:
    """The names behind the lines of the tree. What is too long is cut, among the names of the same depth at once."""
    if max(sizes, default=0) <= longest:
        return list(map("".join, zip(prefixes, names, strict=True)))
    shortest = min(SHORTEST_LABEL, longest)
    long: dict[int, list[int]] = defaultdict(list)
    for row, (prefix, size) in enumerate(zip(prefixes, sizes, strict=True)):
        if size > longest:
            long[len(prefix)].append(row)
    shown = list(map("".join, zip(prefixes, names, strict=True)))
    for depth, rows in long.items():
        room = max(longest - depth, shortest)
        for row, short in zip(rows, shortened([names[row] for row in rows], room), strict=True):
            prefix, most = prefixes[row], longest - shortest
            shown[row] = (prefix if depth <= most else f"…{prefix[depth - most + 1 :]}" if most else "") + short
    return shown


def _cut(texts: list[str], longest: int, *, left: bool) -> list[str]:
    """A column of texts that are cut where they are too long."""
    sizes = widths_of(texts)
    if max(sizes) > longest:
        texts = [cut_in_the_middle(text, longest) if size > longest else text for text, size in zip(texts, sizes, strict=True)]
    return aligned(texts, min(max(sizes), longest), left=left)


def _interleaved(of_rows: list[str], below: Sequence[Sequence[str]]) -> list[str]:
    """One text per row, and behind each those of the lines below it."""
    return list(chain.from_iterable((own, *more) for own, more in zip(of_rows, below, strict=True)))


def _wrapped(text: str, width: int | None) -> list[str]:
    """The lines of a sentence: those after the first stand two characters further in."""
    if width is None or len(text) <= width:
        return [text]
    indent = " " * min(len(text) - len(text.lstrip(" ")) + 2, width // 2)
    return textwrap.wrap(text, width, subsequent_indent=indent, break_on_hyphens=False)


def as_text(lines: Iterable[Line]) -> str:
    """The lines as plain text, the same wherever they are printed."""
    return "\n".join(line.text for line in lines)


def print_lines(lines: Iterable[Line]) -> None:
    """Print to standard output: in color where it is a terminal, otherwise as plain text in whatever encoding it has."""
    text = _styled(lines) if is_terminal(sys.stdout) else as_text(lines)
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    with suppress(BrokenPipeError):  # the reader, such as `head`, has seen enough: no reason to end somebody's program
        print(text.encode(encoding, errors="replace").decode(encoding))


def _styled(lines: Iterable[Line]) -> str:
    """The text with the escapes that the terminal knows. Console.print would need a second for ten thousand lines."""
    from rich.color import ColorSystem
    from rich.console import Console
    from rich.style import Style

    console = Console()
    if console.color_system is None:
        return as_text(lines)

    def in_style(name: str) -> Callable[[str], str]:
        style = Style.parse(name or "none")
        return partial((style.without_color if console.no_color else style).render, color_system=ColorSystem.STANDARD)

    base = {kind: in_style(style) for kind, style in STYLES.items()}
    inside = {
        kind: [(re.compile(pattern), in_style(f"{STYLES[kind]} {style}")) for pattern, style in found.items()]
        for kind, found in PARTS.items()
    }
    styled = []
    for kind, line in lines:
        text, at = "", 0
        spans = [(*match.span(), style) for pattern, style in inside.get(kind, ()) for match in pattern.finditer(line)]
        for begin, end, style in sorted(spans, key=itemgetter(0)):
            text += base[kind](line[at:begin]) + style(line[begin:end])
            at = end
        styled.append(text + base[kind](line[at:]))
    return "\n".join(styled)


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
