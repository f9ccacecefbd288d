"""``torchprof findings FILE``: what could be better."""

from __future__ import annotations

import argparse
from typing import Any

import torchprof
from torchprof.cli.arguments import add_file, subcommand
from torchprof.cli.files import ranks_of, trace_of
from torchprof.cli.output import COMPUTING, add_output_options, emit
from torchprof.cli.progress import working

__all__ = ["add_parser", "run"]


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Declare the arguments of ``findings``."""
    parser = subcommand(
        subparsers,
        "findings FILE",
        "Say what could be better, how much that is worth, and where.",
        "findings step.torchprof",
        "findings trace.json.gz --json",
        "findings run/",
    )
    add_file(parser, ranks=True)
    add_output_options(parser)
    return parser


def run(options: argparse.Namespace) -> None:
    """Print the findings."""
    trace = ranks_of(options.file) or trace_of(options.file)
    with working(COMPUTING):
        found = torchprof.findings(trace)
    emit(found, options)
