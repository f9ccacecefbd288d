"""``torchprof show FILE``: a table of a trace."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, Final

import torchprof
from torchprof.cli.arguments import UsageError, add_file, completes, given_as, number_of, subcommand, text_list
from torchprof.cli.ceilings import add_ceilings, ceilings_of
from torchprof.cli.files import quoted, ranks_of, trace_of
from torchprof.cli.output import COMPUTING, add_output_options, emit_table
from torchprof.cli.progress import working

__all__ = ["add_parser", "run"]

TABLES: Final = (
    "module",
    "op",
    "line",
    "function",
    "step",
    "kernel",
    "rank",
    "collective",
    "clock",
    "overlap",
    "imbalance",
    "bubble",
)
ACROSS_RANKS: Final = ("module", "rank", "collective", "clock", "overlap", "imbalance", "bubble")
ONLY_OF_RANKS: Final = ("rank", "clock", "overlap", "imbalance", "bubble")
NAMES: Final = {"clock": "clocks", "overlap": "overlap", "imbalance": "imbalance", "bubble": "bubbles"}
"""Functions that are not called ``by_`` and what a row is."""
PHASES: Final = ("forward", "recomputation", "backward", "optimizer", "data", "other")
ONLY_FOR: Final = {
    "depth": ("module",),
    "shapes": ("op",),
    "phase": ("op", "kernel"),
    "module": ("op", "kernel"),
    "ceilings": ("op",),
    "libraries": ("line", "function"),
    "backward_at_call": ("line", "function"),
    "dimension": ("imbalance",),
}
"""The tables that an option of the library is for, by its name there."""


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Declare the arguments of ``show``."""
    parser = subcommand(
        subparsers,
        "show FILE",
        "Print a table: by module, op, line, function, step or kernel; of ranks, by rank, collective and more.",
        "show step.torchprof",
        "show step.torchprof --by line --head 20",
        "show step.torchprof --by op --phase backward --sort calls --columns calls,self,flops",
        "show trace.json.gz --by kernel --csv > kernels.csv",
        "show run/ --by rank",
    )
    add_file(parser, ranks=True)
    parser.add_argument("--by", choices=TABLES, default="module", help="what a row is (default: module)")
    sort = parser.add_argument("--sort", metavar="COLUMN", help="order the rows by this column, largest first")
    parser.add_argument("--reverse", action="store_true", help="smallest first")
    columns = parser.add_argument(
        "--columns",
        metavar="A,B,...",
        type=text_list,
        help="these columns instead of the usual ones; in JSON and CSV, instead of all",
    )
    for action in (sort, columns):
        completes(action, columns_to_complete)
    parser.add_argument("--head", metavar="N", type=number_of("rows", 0), help="print the first N rows")
    parser.add_argument("--depth", metavar="N", type=number_of("levels", 0), help="by module: go no deeper")
    parser.add_argument("--phase", choices=PHASES, help="by op and kernel: only of this phase")
    parser.add_argument("--module", metavar="PATH", help="by op and kernel: only of this module and those below it")
    parser.add_argument("--shapes", action="store_true", help="by op: tell other inputs apart")
    add_ceilings(parser)
    parser.add_argument("--libraries", action="store_true", help="by line and function: those of libraries too")
    parser.add_argument(
        "--backward-at-call",
        action="store_true",
        help="by line and function: backward is of the line that called it, not of the one that it differentiates",
    )
    parser.add_argument("--dimension", metavar="NAME", help="by imbalance: by place along this dimension of the device mesh")
    add_output_options(parser, csv=True)
    return parser


def run(options: argparse.Namespace) -> None:
    """Print the table."""
    given = {name: value for name in ONLY_FOR if (value := getattr(options, name)) is not None and value is not False}
    for name in given:
        if options.by not in ONLY_FOR[name]:
            by = " and ".join(f"--by {each}" for each in ONLY_FOR[name])
            raise UsageError(f"--{name.replace('_', '-')} is for {by}, not for --by {options.by}")
    if options.reverse and options.sort is None:
        raise UsageError("--reverse needs --sort COLUMN")
    if "ceilings" in given:
        given["ceilings"] = ceilings_of(options)
    table = table_of(options.file, options.by, given)
    if options.sort is not None:
        with given_as("--sort"):
            table = table.sort(options.sort, descending=not options.reverse)
    emit_table(table, options)


def table_of(file: str, by: str, given: dict[str, Any]) -> torchprof.Table:
    """The table of a file."""
    shown: torchprof.Trace | torchprof.Ranks | None = ranks_of(file)
    if isinstance(shown, torchprof.Ranks) and by not in ACROSS_RANKS:
        instead = ", ".join(f"--by {each}" for each in ACROSS_RANKS)
        raise UsageError(
            f"--by {by}: {file} has several ranks, of which there are {instead}: show the file of one, such as "
            f"{quoted(shown.files[0])}"
        )
    if shown is None:
        shown = trace_of(file)
        if by in ONLY_OF_RANKS:
            raise UsageError(f"--by {by}: {file} is of one process: give the folder with the files of all ranks")
    with working(COMPUTING):
        table: torchprof.Table = getattr(torchprof, NAMES.get(by, f"by_{by}"))(shown, **given)
    return table


def columns_to_complete(prefix: str, parsed_args: argparse.Namespace, **_: Any) -> Iterable[str]:
    """The columns that this table of this file has, or all that there are; behind those that are written already."""
    from torchprof.tables.columns import COLUMNS, columns_of

    known = list(COLUMNS)
    with suppress(Exception):  # no such file, or not yet
        rows = table_of(parsed_args.file, parsed_args.by, {}).rows
        known = list(columns_of({figure for row in rows for figure in row})) or known
    written, comma, _last = prefix.rpartition(",")
    return [f"{written}{comma}{name}" for name in known if name not in written.split(",")]
