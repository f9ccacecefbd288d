"""What everything that prints has in common: its text, its view in a notebook, and color on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from torchprof.arguments import check_int
from torchprof.rendering.grid import Parts
from torchprof.rendering.text import Line, as_text, lines_of, print_lines
from torchprof.terminal import NARROWEST, terminal_width

__all__ = ["Printed", "check_width"]


class Printed:
    """Something made of tables and lines. ``str()`` is the printed text, in full width wherever it is printed."""

    def parts(self) -> Parts:
        """What is printed, from top to bottom."""
        raise NotImplementedError

    def lines(self, width: int | None = None) -> Iterator[Line]:
        """The lines of the printed text, each with what kind it is."""
        return lines_of(self.parts(), width)

    def _width(self) -> int | None:
        """What was said once for all about the width."""
        return None

    def __str__(self) -> str:
        return self.to_text()

    def _repr_html_(self) -> str:
        from torchprof.rendering.html import as_html  # which only notebooks need

        return as_html(self.parts())

    def to_text(self, width: int | None = None) -> str:
        """The printed text.

        Args:
            width: characters that a line may have, at least 20: where a table is wider, names are cut in the middle and columns
                are left out, which the last line of the table then names. None: no limit.

        Raises:
            ArgumentError: the width is no int, or too small.
        """
        check_width(width)
        return as_text(self.lines(width if width is not None else self._width()))

    def print(self, *, width: int | None = None) -> None:
        """Print to standard output, in color where it is a terminal.

        Args:
            width: as in ``to_text``. None: what the terminal has; no limit where standard output is none.

        Raises:
            ArgumentError: the width is no int, or too small.
        """
        check_width(width)
        if width is None:
            width = self._width()
        if width is None and (columns := terminal_width(sys.stdout)):
            width = max(columns, NARROWEST)
        print_lines(self.lines(width))


def check_width(width: object) -> None:
    """Raise ArgumentError unless this is a width, or None."""
    if width is not None:
        check_int("width", width, NARROWEST)
