"""What everything that prints has in common: text, a notebook's view, and colour on a terminal."""

from __future__ import annotations

import html
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from torchprof.rendering.text import Line, as_text, print_lines

if TYPE_CHECKING:
    import pandas

__all__ = ["Printed", "data_frame"]


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
        """Print to standard output, in colour where it is a terminal."""
        print_lines(self.lines())


def data_frame(rows: list[dict[str, Any]]) -> pandas.DataFrame:
    """Rows as a ``pandas.DataFrame``.

    Raises:
        ImportError: pandas is not installed.
    """
    try:
        import pandas
    except ImportError as error:
        raise ImportError("to_pandas() needs pandas: pip install pandas") from error
    return pandas.DataFrame(rows)
