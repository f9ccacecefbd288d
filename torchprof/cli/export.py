"""``torchprof export FILE --to FORMAT``: a trace as a file of another tool."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Callable
from functools import partial
from tempfile import TemporaryDirectory
from typing import Any, Final, NamedTuple

import torchprof
from torchprof.cli.arguments import UsageError, add_file, subcommand
from torchprof.cli.files import beside, quoted, ranks_of, refuse_to_overwrite, trace_of
from torchprof.cli.output import say, write
from torchprof.cli.progress import working
from torchprof.rendering.units import format_bytes

__all__ = ["add_parser", "run"]

BY: Final = ("time", "device", "flops", "bytes", "allocated", "peak")
FOR_FLAME_GRAPHS: Final = ("by", "functions", "backward_at_call", "device")
STANDARD_OUTPUT: Final = "-"


class Format(NamedTuple):
    """A format of another tool.

    Attributes:
        ending: of the name of its files.
        opened: with what they are.
    """

    ending: str
    opened: str


FORMATS: Final = {
    "chrome": Format(".chrome.json.gz", "https://ui.perfetto.dev or chrome://tracing"),
    "speedscope": Format(".speedscope.json", "https://www.speedscope.app"),
    "folded": Format(".folded", "flamegraph.pl, inferno or another tool for flame graphs"),
}


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Declare the arguments of ``export``."""
    parser = subcommand(
        subparsers,
        "export FILE --to FORMAT",
        "Write a trace for another tool: Perfetto, speedscope, flame graphs.",
        "export step.torchprof --to chrome",
        "export run/ --to chrome",
        "export step.torchprof --to speedscope --by flops -o flops.json",
        "export step.torchprof --to folded --by peak --functions -o - | flamegraph.pl > peak.svg",
    )
    add_file(parser, ranks=True)
    parser.add_argument(
        "--to",
        choices=list(FORMATS),
        required=True,
        help="chrome: a timeline; speedscope, folded: where something went, as a flame graph",
    )
    parser.add_argument(
        "-o", "--output", metavar="OUT", help="the file to write; - is standard output (default: here, named as FILE)"
    )
    parser.add_argument("--by", choices=BY, help="of a flame graph, what it adds up (default: time)")
    parser.add_argument("--functions", action="store_true", help="of a flame graph: by line of Python, not by module")
    parser.add_argument("--libraries", action="store_true", help="of lines of Python: those of libraries too")
    parser.add_argument(
        "--backward-at-call", action="store_true", help="of lines of Python: backward is of the line that called it"
    )
    parser.add_argument("--device", help="of a flame graph by allocated or peak: whose memory, such as cuda:0")
    return parser


def run(options: argparse.Namespace) -> None:
    """Write the file."""
    given = {name: value for name in (*FOR_FLAME_GRAPHS, "libraries") if (value := getattr(options, name)) not in (None, False)}
    if options.to == "chrome":
        for name in FOR_FLAME_GRAPHS:
            if name in given:
                raise UsageError(
                    f"--{name.replace('_', '-')} is for flame graphs, --to speedscope or folded; chrome is a timeline"
                )
    trace = ranks_of(options.file) or trace_of(options.file)
    if isinstance(trace, torchprof.Ranks) and options.to != "chrome":
        raise UsageError(f"--to {options.to} is of one rank: give its file, such as {quoted(trace.files[0])}, or --to chrome")
    export = partial(getattr(torchprof, f"export_{options.to}"), trace, **given)
    if options.output == STANDARD_OUTPUT:
        _to_stdout(export, options.to)
        return
    form = FORMATS[options.to]
    path = options.output or beside(options.file, form.ending)
    refuse_to_overwrite(options.file, path)
    with working(f"writing {path}"):
        export(path)
    say(f"Wrote {path}, {format_bytes(os.path.getsize(path))}: open it with {form.opened}")


def _to_stdout(export: Callable[[str], None], name: str) -> None:
    """Write to standard output what is written to files: behind what is there already."""
    if sys.stdout is None:
        write("")
    with TemporaryDirectory() as folder:
        path = os.path.join(folder, name)
        with working("exporting"):
            export(path)
        with open(path, "rb") as file:
            if (binary := getattr(sys.stdout, "buffer", None)) is not None:
                shutil.copyfileobj(file, binary)
            else:  # it was replaced by something for text
                write(file.read().decode())
