"""What everything that prints has in common: its text, its view in a notebook, and color on a terminal."""

from __future__ import annotations

import html
from collections.abc import Iterator

from torchprof.rendering.text import Line, as_text, print_lines

__all__ = ["Printed"]


class Printed:
    """Something made of lines. ``str()`` is the printed text."""

    def lines(self) -> Iterator[Line]:
        """What is printed."""
        raise NotImplementedError

    def __str__(self) -> str:
        return as_text(self.lines())

    def _repr_html_(self) -> str:
        return f'<pre style="white-space: pre; overflow-x: auto">{html.escape(str(self))}</pre>'

    def print(self) -> None:
        """Print to standard output, in color where it is a terminal."""
        print_lines(self.lines())
