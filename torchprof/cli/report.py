"""``torchprof report FILE``: what a trace says, as one HTML file."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import torchprof
from torchprof.cli.arguments import UsageError, add_file, subcommand
from torchprof.cli.ceilings import add_ceilings, ceilings_of
from torchprof.cli.files import beside, holds_snapshot, ranks_of, refuse_to_overwrite, trace_of
from torchprof.cli.output import say
from torchprof.cli.progress import working
from torchprof.rendering.units import format_bytes

__all__ = ["add_parser", "run"]


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Declare the arguments of ``report``."""
    parser = subcommand(
        subparsers,
        "report FILE",
        "Write one HTML file with findings, tables and charts.",
        "report step.torchprof --open",
        "report step.torchprof --ceilings H100-80GB:bf16",
        "report run/ -o run.html",
        "report step.torchprof -o report.html --title 'ResNet-50, batch 64'",
    )
    add_file(parser, snapshots=True, ranks=True)
    parser.add_argument("-o", "--output", metavar="OUT", help="the file to write (default: here, named as FILE)")
    parser.add_argument("--title", help="of the page (default: the name of the model)")
    add_ceilings(parser)
    parser.add_argument("--device", help="of a memory snapshot: such as cuda:1 (default: the one with the most reserved)")
    parser.add_argument("--open", action="store_true", help="open it in the browser")
    return parser


def run(options: argparse.Namespace) -> None:
    """Write the file."""
    path = options.output or beside(options.file, ".html")
    refuse_to_overwrite(options.file, path)
    found, ceilings = _found(options), ceilings_of(options)
    with working(f"writing {path}"):
        torchprof.report(found, path, title=options.title, ceilings=ceilings)
    say(f"Wrote {path}, {format_bytes(os.path.getsize(path))}: open it in a browser")
    if options.open:
        import webbrowser

        webbrowser.open(Path(path).resolve().as_uri())


def _found(options: argparse.Namespace) -> Any:
    """The trace, the ranks, or the account of the memory snapshot."""
    if (ranks := ranks_of(options.file)) is not None:
        if options.device is not None:
            raise UsageError(f"--device {options.device} is for memory snapshots: the page of ranks has all devices")
        if options.ceilings is not None:
            raise UsageError("--ceilings is for the page of one trace: give the file of one rank")
        return ranks
    if not holds_snapshot(options.file):
        if options.device is not None:
            raise UsageError(f"--device {options.device} is for memory snapshots: the page of a trace has all devices")
        return trace_of(options.file)
    if options.ceilings is not None:
        raise UsageError("--ceilings is for traces: a memory snapshot knows no times")
    with working(f"reading {options.file}"):
        return torchprof.memory(options.file, options.device)
