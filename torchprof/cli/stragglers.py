"""``torchprof stragglers RUN``: which rank came late to what ranks do together, and why."""

from __future__ import annotations

import argparse
from typing import Any

import torchprof
from torchprof.cli.arguments import subcommand
from torchprof.cli.files import folder_of_ranks
from torchprof.cli.output import COMPUTING, add_output_options, emit
from torchprof.cli.progress import working

__all__ = ["add_parser", "run"]


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Declare the arguments of ``stragglers``."""
    parser = subcommand(
        subparsers,
        "stragglers RUN",
        "Say which rank came late to what ranks do together, and why.",
        "stragglers run/",
        "stragglers run/ --json",
    )
    parser.add_argument("file", metavar="RUN", help="the folder with the traces of all ranks")
    add_output_options(parser)
    return parser


def run(options: argparse.Namespace) -> None:
    """Print the account."""
    ranks = folder_of_ranks(options.file)
    with working(COMPUTING):
        found = torchprof.stragglers(ranks)
    emit(found, options)
