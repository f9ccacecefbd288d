"""``torchprof diff A B``: what is different between two files, and whether that passes a limit."""

from __future__ import annotations

import argparse
import sys
from typing import Any, Final

import torchprof

__all__ = ["add_parser", "run"]

BY: Final = ("module", "op", "line", "function", "kernel", "category")
PASSED, LIMIT_PASSED, TROUBLE = 0, 1, 2
"""Exit codes, as those of diff(1) and cmp(1)."""

LIMITS: Final = """
A limit is a figure, > or <, and how much it may change from A to B, as a percentage of A or with a sign and a unit:

  --fail-if "time > +5%" "peak > +200 MiB" "encoder.0: backward > +1 ms" "flops < -1%"

Figures: time (of a step), forward, backward, optimizer, data, device, kernels, ops, flops, peak, reserved, saved, allocated; of
a row also self, calls. A time fails where all of its 95% interval, or most steps, are beyond the limit; with --strict, noise
or not. A figure that is not known fails.

Exit code: 0, 1 where a limit is passed, 2 where files or arguments are wrong.
"""


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Declare the arguments of ``diff``."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "diff",
        help="what is different between two files",
        description="Say what is different between two traces or memory snapshots, and whether it is noise.",
        epilog=LIMITS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("a", metavar="A", help="before")
    parser.add_argument("b", metavar="B", help="after")
    parser.add_argument("--by", choices=BY, help="what a row is (default: module, of snapshots line)")
    parser.add_argument(
        "--fail-if", metavar="LIMIT", nargs="+", action="extend", default=[], help="exit with 1 where it is passed"
    )
    parser.add_argument("--strict", action="store_true", help="times fail within noise too")
    parser.add_argument("--html", metavar="FILE", help="write it as a page as well")
    parser.add_argument("--width", metavar="N", type=int, help="characters in a line (default: what the terminal has)")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="every figure of every row as JSON")
    form.add_argument("--csv", action="store_true", help="the same as CSV")
    parser.set_defaults(trouble=TROUBLE)
    return parser


def run(options: argparse.Namespace) -> int:
    """Print the comparison, hold it against the limits, and return the exit code."""
    found = torchprof.diff(options.a, options.b, by=options.by)
    checks = found.check(*options.fail_if, strict=options.strict)
    if options.html is not None:
        found.to_html(options.html)
    if options.json:
        print(found.to_json())
    elif options.csv:
        print(found.to_csv(), end="")
    else:
        found.print(width=options.width)
    for each in checks:
        print(each, file=sys.stderr if options.json or options.csv else sys.stdout)
    return LIMIT_PASSED if any(each.failed for each in checks) else PASSED
