"""An entry of a list as text.

1. cuda:0 waits 424 us of a step for the host
   Worth: up to 42.4% of the step time, 424 us          a fact
   - in forward: 167 us before 2 kernels a step         a detail
   Why: https://docs.pytorch.org/docs/stable/amp.html   a link, which is never broken
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from typing import Final

from torchprof.rendering.grid import Entry
from torchprof.terminal import printable

__all__ = ["entry_lines", "is_link"]

LINK: Final = re.compile(r"https?://[^\s<>\"']+")


def is_link(text: str) -> bool:
    """Whether the text is the address of a page."""
    return LINK.fullmatch(text) is not None


def entry_lines(entry: Entry, width: int | None) -> Iterator[tuple[str, str]]:
    """The lines, each with its kind, and none wider than ``width`` but for links."""
    number = f"{entry.number}. "
    indent = " " * len(number)
    for line in _wrapped(number + printable(entry.title), indent, width):
        yield "title", line
    for word, text in entry.facts:
        line = f"{indent}{word}: {printable(text)}" if word else f"{indent}- {printable(text)}"
        for at, part in enumerate([line] if is_link(text) else _wrapped(line, f"{indent}  ", width)):
            yield "fact" if word and not at else "detail", part


def _wrapped(line: str, further: str, width: int | None) -> list[str]:
    if width is None or len(line) <= width:
        return [line]
    return textwrap.wrap(line, width, subsequent_indent=further, break_on_hyphens=False)
