"""``torchprof show FILE``: a table of a saved trace."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any, Final

import torchprof

__all__ = ["add_parser", "run"]

TABLES: Final[dict[str, Callable[[torchprof.Trace], torchprof.Table]]] = {
    "module": torchprof.by_module,
    "op": torchprof.by_op,
    "step": torchprof.by_step,
    "kernel": torchprof.by_kernel,
    "line": torchprof.by_line,
    "function": torchprof.by_function,
}


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Declare the arguments of ``show``."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "show", help="print a table", description="Print a table of a trace that Trace.save() wrote."
    )
    parser.add_argument("file", metavar="FILE", help="the trace")
    parser.add_argument("--by", choices=list(TABLES), default="module", help="what a row is (default: module)")
    parser.add_argument("--sort", metavar="COLUMN", help="order the rows by this column, largest first")
    parser.add_argument(
        "--columns", metavar="A,B,...", help="these columns instead of the usual ones; in JSON and CSV, instead of all"
    )
    parser.add_argument("--head", metavar="N", type=int, help="print the first N rows")
    parser.add_argument("--width", metavar="N", type=int, help="characters in a line (default: what the terminal has)")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="every figure of every row as JSON")
    form.add_argument("--csv", action="store_true", help="the same as CSV")
    return parser


def run(options: argparse.Namespace) -> None:
    """Print the table."""
    trace = torchprof.load(options.file)
    table = TABLES[options.by](trace)
    if options.sort is not None:
        table = table.sort(options.sort)
    chosen = options.columns is not None
    if chosen:
        table = table.select(*(name.strip() for name in options.columns.split(",")))
    if options.head is not None:
        table = table.head(options.head)
    if options.json:
        print(table.to_json(printed_only=chosen))
    elif options.csv:
        print(table.to_csv(printed_only=chosen), end="")
    else:
        table.print(width=options.width)
