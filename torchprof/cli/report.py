"""``torchprof report FILE``: what a trace says, as one HTML file."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import torchprof
from torchprof.cli.arguments import add_file, subcommand
from torchprof.cli.files import beside, holds_snapshot, refuse_to_overwrite, trace_of
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
        "report step.torchprof -o report.html --title 'ResNet-50, batch 64'",
    )
    add_file(parser, snapshots=True)
    parser.add_argument("-o", "--output", metavar="OUT", help="the file to write (default: here, named as FILE)")
    parser.add_argument("--title", help="of the page (default: the name of the model)")
    parser.add_argument("--open", action="store_true", help="open it in the browser")
    return parser


def run(options: argparse.Namespace) -> None:
    """Write the file."""
    path = options.output or beside(options.file, ".html")
    refuse_to_overwrite(options.file, path)
    found = _found(options)
    with working(f"writing {path}"):
        torchprof.report(found, path, title=options.title)
    say(f"Wrote {path}, {format_bytes(os.path.getsize(path))}: open it in a browser")
    if options.open:
        import webbrowser

        webbrowser.open(Path(path).resolve().as_uri())


def _found(options: argparse.Namespace) -> Any:
    """The trace, or the account of the memory snapshot."""
    if not holds_snapshot(options.file):
        return trace_of(options.file)
    with working(f"reading {options.file}"):
        return torchprof.memory(options.file)
