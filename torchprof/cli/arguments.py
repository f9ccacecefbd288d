"""What the parsers of subcommands share: how they look, how they say what is wrong, and kinds of values."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final, NoReturn

from torchprof.errors import ArgumentError
from torchprof.terminal import printable
from torchprof.wording import nearest

__all__ = [
    "WRONG_ARGUMENTS",
    "Parser",
    "UsageError",
    "add_file",
    "completes",
    "did_you_mean",
    "given_as",
    "number_of",
    "subcommand",
    "text_list",
]

WRONG_ARGUMENTS: Final = 2
FILES: Final = "of torchprof, or of torch.profiler (JSON, also .gz)"
WITH_SNAPSHOTS: Final = f"{FILES}, or a CUDA memory snapshot"

OR_RANKS: Final = "; or a folder with those of many ranks"


class UsageError(ArgumentError):
    """The command line itself is wrong, whatever the files hold: it is said as argparse says it, and the exit code is 2."""


class Parser(argparse.ArgumentParser):
    """A parser that says in one line what is wrong, and how to go on."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **{"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False, **more})

    def options(self) -> list[str]:
        """All that begin with a dash."""
        return [option for action in self._actions for option in action.option_strings]

    def error(self, message: str) -> NoReturn:
        """Say it and exit with 2."""
        if sys.stderr is not None:
            end = "" if message.endswith(("?", ".")) else "."
            print(f"{self.prog}: {printable(message)}{end} See {self.prog} --help", file=sys.stderr)
        sys.exit(WRONG_ARGUMENTS)


def subcommand(subparsers: Any, usage: str, description: str, *examples: str) -> argparse.ArgumentParser:
    """A parser for a subcommand.

    Args:
        usage: its name and what stands behind it: ``"show FILE"``.
        description: its first line is what ``torchprof --help`` says of it.
        examples: command lines, without the name of the program.
    """
    lines = "".join(f"\n  torchprof {each}" for each in examples)
    parser: argparse.ArgumentParser = subparsers.add_parser(
        usage.partition(" ")[0],
        usage=f"torchprof {usage} [options]",
        description=description,
        epilog=f"examples:{lines}" if examples else None,
    )
    return parser


def add_file(parser: argparse.ArgumentParser, *, snapshots: bool = False, ranks: bool = False) -> None:
    """Declare ``FILE``."""
    what = f"a trace {WITH_SNAPSHOTS if snapshots else FILES}{OR_RANKS if ranks else ''}"
    parser.add_argument("file", metavar="FILE", help=what)


def completes(action: argparse.Action, values: Callable[..., Iterable[str]]) -> None:
    """Say what a shell completes: ``values(prefix, parsed_args)``, as argcomplete calls it."""
    action.completer = values  # type: ignore[attr-defined]


def number_of(what: str, least: int) -> Callable[[str], int]:
    """Reads a whole number of at least ``least``."""

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least:
            raise argparse.ArgumentTypeError(f"{text!r} is no number of {what}: give {least} or more")
        return value

    return read


def text_list(text: str) -> list[str]:
    """Reads names with commas between them."""
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise argparse.ArgumentTypeError(f"{text!r} has no name in one of its places: give names such as time,calls")
    return names


@contextmanager
def given_as(option: str) -> Iterator[None]:
    """Meanwhile, an argument that is not accepted is what this option was given.

    Raises:
        UsageError: it was not accepted.
    """
    try:
        yield
    except ArgumentError as error:
        raise UsageError(f"{option}: {error}") from None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``": did you mean 'show'?"`` where one of the known names is near; else empty."""
    dashes = name[: len(name) - len(name.lstrip("-"))]
    if dashes:  # those that all options have make none of them nearer, nor does the value behind =
        bare = {each.lstrip("-"): each for each in known if each.startswith("--")}
        found = bare.get(nearest(name.lstrip("-").partition("=")[0], bare) or "")
    else:
        found = nearest(name, known)
    return f": did you mean {found!r}?" if found else ""
