"""``torchprof annotate FILE WHAT``: the source of a function or file with what its lines cost."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import torchprof
from torchprof.cli.arguments import add_file, completes, number_of, subcommand, text_list
from torchprof.cli.files import trace_of
from torchprof.cli.output import COMPUTING, add_output_options, emit_table
from torchprof.cli.progress import working

__all__ = ["add_parser", "run"]


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Declare the arguments of ``annotate``."""
    parser = subcommand(
        subparsers,
        "annotate FILE WHAT",
        "Show the source of a function or file, with what every line cost.",
        "annotate step.torchprof Net.forward",
        "annotate step.torchprof train.py",
        "annotate step.torchprof net.py:Block.forward --columns time,saved,code",
    )
    add_file(parser)
    what = parser.add_argument(
        "what", metavar="WHAT", help="a function as show --by function names it, a file, or file:function"
    )
    completes(what, functions_to_complete)
    parser.add_argument("--columns", metavar="A,B,...", type=text_list, help="these columns instead of the usual ones")
    parser.add_argument("--head", metavar="N", type=number_of("lines", 0), help="print the first N lines")
    add_output_options(parser, csv=True)
    return parser


def run(options: argparse.Namespace) -> None:
    """Print the source."""
    trace = trace_of(options.file)
    with working(COMPUTING):
        table = torchprof.annotate(trace, options.what)
    emit_table(table, options)


def functions_to_complete(prefix: str, parsed_args: argparse.Namespace, **_: Any) -> Iterable[str]:
    """The functions of the user's own, and their files."""
    with suppress(Exception):  # no such file, or without stacks
        rows = torchprof.by_function(trace_of(parsed_args.file)).rows
        return sorted({name for row in rows for name in (row["function"], row["file"]) if name})
    return []
