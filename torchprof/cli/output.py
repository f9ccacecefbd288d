"""What subcommands print: text, through a pager where it is longer than the screen; or JSON and CSV."""

from __future__ import annotations

import argparse
import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from torchprof.cli.arguments import given_as, number_of
from torchprof.cli.progress import working
from torchprof.terminal import NARROWEST, is_terminal, printable

if TYPE_CHECKING:
    from torchprof.tables.table import Table

__all__ = ["COMPUTING", "add_output_options", "emit", "emit_table", "paged", "say", "write", "write_csv", "write_json"]

COMPUTING: Final = "computing"
LESS: Final = "FRX"
"""Options of less where ``LESS`` is not set, as git sets them: colors are kept, and the text stays when it ends."""


def add_output_options(parser: argparse.ArgumentParser, *, csv: bool = False, json: bool = True) -> None:
    """Declare ``--json``, ``--csv``, ``--width`` and ``--no-pager``."""
    form = parser.add_mutually_exclusive_group()
    if json:
        form.add_argument("--json", action="store_true", help="print every figure as JSON: bytes, nanoseconds, fractions")
    if csv:
        form.add_argument("--csv", action="store_true", help="print every figure of every row as CSV")
    parser.add_argument(
        "--width", metavar="N", type=number_of("characters", NARROWEST), help="characters in a line (default: the terminal's)"
    )
    parser.add_argument(
        "--no-pager", action="store_true", help="print all at once; the pager is $PAGER, or less, where that is there"
    )


def emit(printed: Any, options: argparse.Namespace) -> None:
    """Print it as the options say: something that prints itself, and has ``to_dict()``."""
    if options.json:
        with working(COMPUTING):
            data = printed.to_dict()
        write_json(data)
    else:
        with paged(options, COMPUTING):
            printed.print(width=options.width)


def emit_table(table: Table, options: argparse.Namespace) -> None:
    """Print a table as the options say: its columns, its first rows, and as text, JSON or CSV."""
    chosen = options.columns is not None
    if chosen:
        with given_as("--columns"):
            table = table.select(*options.columns)
    if options.head is not None:
        table = table.head(options.head)
    if options.json:
        write(f"{table.to_json(printed_only=chosen)}\n")
    elif options.csv:
        write_csv(table.to_csv(printed_only=chosen))
    else:
        say = options.words().say
        footer = tuple(say(line) if isinstance(line, str) else line for line in table.footer)
        with paged(options):
            replace(table, footer=footer).print(width=options.width)


def write_json(data: Any) -> None:
    """Print data as JSON."""
    import json

    write(f"{json.dumps(data, indent=1)}\n")


def write_csv(text: str) -> None:
    """Print CSV. It is data, which goes to a file or a pipe as it is; what a terminal would obey is escaped on one."""
    write("\n".join(map(printable, text.split("\n"))) if is_terminal(sys.stdout) else text)


def write(text: str) -> None:
    """Print text in whatever encoding standard output has.

    Raises:
        OSError: it cannot be written.
    """
    if sys.stdout is None:  # as where a shell closed it: >&-
        raise OSError(errno.EBADF, "standard output is closed: nothing can be printed")
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    sys.stdout.write(text.encode(encoding, errors="backslashreplace").decode(encoding))


def say(text: str) -> None:
    """Print a line that nothing depends on."""
    if sys.stdout is not None:
        write(f"{printable(text)}\n")


class _Screen(io.StringIO):
    """Keeps what is printed, as it would be printed to the terminal."""

    def isatty(self) -> bool:
        return True


@contextmanager
def paged(options: argparse.Namespace, doing: str = "") -> Iterator[None]:
    """What is printed meanwhile goes through a pager, if standard output is a terminal and it is longer than that.

    Args:
        doing: is said on standard error where it takes its time.
    """
    if sys.stdout is None:
        write("")
    said = working(doing) if doing else nullcontext()
    if not is_terminal(sys.stdout):
        with said:
            yield
        return
    screen = _Screen()
    try:
        with said, redirect_stdout(screen):
            yield
    except BaseException:
        write(screen.getvalue())
        raise
    from shutil import get_terminal_size

    text, pager = screen.getvalue(), _pager()
    fits = options.no_pager or pager is None or text.count("\n") < get_terminal_size().lines
    if fits or not _through(str(pager), text):
        write(text)


def _pager() -> str | None:
    """The command line of the pager; None: there is none."""
    chosen = os.environ.get("PAGER")
    if chosen is not None:
        return chosen if chosen.strip() not in ("", "cat") else None
    from shutil import which

    return "less" if os.environ.get("TERM", "dumb") != "dumb" and which("less") else None


def _through(pager: str, text: str) -> bool:
    """Show text in a pager, until it ends; False: there is no such program."""
    import signal
    import subprocess

    less = os.environ.get("LESS", LESS)
    environment = {**os.environ, "LESS": less if "R" in less else f"{less} -R"}
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    sys.stdout.flush()
    # As git does: a shell reads it, for it may have options and quotes.
    running = subprocess.Popen(f"{pager}\n", shell=True, stdin=subprocess.PIPE, env=environment)
    ignored = signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the pager, which knows what to do
    try:
        with suppress(OSError):  # it ended before it had read all
            running.communicate(text.encode(encoding, errors="replace"))
        return running.wait() not in (126, 127)
    finally:
        signal.signal(signal.SIGINT, ignored)
