"""``torchprof SUBCOMMAND FILE ...``: reads the arguments, runs the subcommand, and says in one line what went wrong.

A subcommand is a module of this package with two functions: ``add_parser`` declares its arguments, ``run`` does the work.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Final

from torchprof._version import __version__
from torchprof.cli import info, run, show
from torchprof.errors import TorchprofError
from torchprof.terminal import printable

__all__ = ["main"]

SUBCOMMANDS: Final = (run, show, info)
FAILED: Final = 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, 1 where it failed, 2 where the arguments are wrong."""
    options = parser().parse_args(arguments)
    try:
        options.run(options)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (TorchprofError, OSError) as error:
        print(f"torchprof: {printable(str(error))}", file=sys.stderr)
        return FAILED
    return 0


def parser() -> argparse.ArgumentParser:
    """The parser of all subcommands. argparse: it is enough for subcommands and options, and costs no import."""
    made = argparse.ArgumentParser(
        prog="torchprof", description="Show what a recording saved. Needs neither the model nor PyTorch."
    )
    made.add_argument("--version", action="version", version=f"torchprof {__version__}")
    subparsers = made.add_subparsers(metavar="SUBCOMMAND", required=True)
    for subcommand in SUBCOMMANDS:
        subcommand.add_parser(subparsers).set_defaults(run=subcommand.run)
    return made
