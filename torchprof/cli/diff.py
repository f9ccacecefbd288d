"""``torchprof diff A B``: what is different between two files, and whether that passes a limit."""

from __future__ import annotations

import argparse
import sys
from typing import Any, Final

import torchprof
from torchprof.cli.arguments import WRONG_ARGUMENTS, given_as, subcommand
from torchprof.cli.files import holds_snapshot, refuse_to_overwrite, trace_of
from torchprof.cli.output import add_output_options, paged, write, write_csv
from torchprof.cli.progress import working
from torchprof.terminal import printable

__all__ = ["add_parser", "run"]

BY: Final = ("module", "op", "line", "function", "kernel", "category")
LIMIT_PASSED: Final = 1
ABOUT: Final = """Say what is different between two recordings, and what of it is noise.

A limit is a figure, > or <, and how much it may change from A to B: a percentage of A, or an amount with its sign and unit. Of
one row, its name stands before a colon. Figures are time (of a step), forward, backward, optimizer, data, device, kernels, ops,
flops, peak, reserved, saved, allocated; of rows also self and calls. A time fails where all of its 95% interval, or most steps,
are beyond the limit; a figure that is not known fails.

It exits with 0; with 1 where a limit is passed; with 2 where it failed."""


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Declare the arguments of ``diff``."""
    parser = subcommand(
        subparsers,
        "diff A B",
        ABOUT,
        "diff before.torchprof after.torchprof",
        "diff before.torchprof after.torchprof --by op",
        'diff before.torchprof after.torchprof --fail-if "time > +5%" "peak > +200 MiB" "encoder.0: backward > +1 ms"',
        "diff before.pickle after.pickle --by category",
    )
    parser.add_argument("a", metavar="A", help="before: a trace of torchprof, or of torch.profiler, or a CUDA memory snapshot")
    parser.add_argument("b", metavar="B", help="after: another of the same kind")
    parser.add_argument("--by", choices=BY, help="what a row is (default: module, without these op, of snapshots line)")
    parser.add_argument(
        "--fail-if", metavar="LIMIT", nargs="+", action="extend", default=[], help="exit with 1 where it is passed"
    )
    parser.add_argument("--strict", action="store_true", help="times fail where they are beyond a limit within noise, too")
    parser.add_argument("--html", metavar="FILE", help="write it as a page as well")
    add_output_options(parser, csv=True)
    parser.set_defaults(failed=WRONG_ARGUMENTS)
    return parser


def run(options: argparse.Namespace) -> int:
    """Print the comparison, hold it against the limits, and return the exit code."""
    a, b = _read(options.a), _read(options.b)
    with working("comparing"):
        found = torchprof.diff(a, b, by=options.by, names=(options.a, options.b))
        with given_as("--fail-if"):
            checks = found.check(*options.fail_if, strict=options.strict)
    if options.html is not None:
        for source in (options.a, options.b):
            refuse_to_overwrite(source, options.html, "--html")
        found.to_html(options.html)
    sentences = "".join(f"{printable(str(each))}\n" for each in checks)
    if options.json:
        write(f"{found.to_json()}\n")
    elif options.csv:
        write_csv(found.to_csv())
    else:
        with paged(options):
            found.print(width=options.width)
        write(sentences)
    if (options.json or options.csv) and sys.stderr is not None:
        sys.stderr.write(sentences)
    return LIMIT_PASSED if any(each.failed for each in checks) else 0


def _read(path: str) -> Any:
    """The trace or the account of the snapshot in a file."""
    if not holds_snapshot(path):
        return trace_of(path)
    with working(f"reading {path}"):
        return torchprof.memory(path)
