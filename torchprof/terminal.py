"""Whether a stream is a terminal, how wide it is, and what may be written to one."""

from __future__ import annotations

from typing import Any, Final

__all__ = ["NARROWEST", "is_terminal", "printable", "terminal_width"]

NARROWEST: Final = 20
"""Characters in a line of what is printed, at least."""


def is_terminal(stream: Any) -> bool:
    """Whether a stream is a terminal. Standard streams may be replaced by any object, or be None."""
    return bool(getattr(stream, "isatty", lambda: False)())


def terminal_width(stream: Any) -> int | None:
    """How many characters fit in a line of a terminal, ``COLUMNS`` first; None if the stream is something else."""
    if not is_terminal(stream):
        return None
    from shutil import get_terminal_size  # which takes long to import

    return get_terminal_size().columns


def printable(text: str) -> str:
    r"""The text with everything escaped that is not seen or moves the cursor: a line break is ``\n``, ESC is ``\x1b``.

    Names come from programs and files of others: what they contain must not break a table, nor reach the terminal.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
