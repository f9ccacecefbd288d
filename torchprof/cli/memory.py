"""``torchprof memory FILE``: what held the memory, of a trace or of a CUDA memory snapshot."""

from __future__ import annotations

import argparse
from typing import Any

import torchprof
from torchprof.cli.arguments import add_file, subcommand
from torchprof.cli.files import holds_snapshot, trace_of
from torchprof.cli.output import add_output_options, emit
from torchprof.cli.progress import working

__all__ = ["add_parser", "run"]


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Declare the arguments of ``memory``."""
    parser = subcommand(
        subparsers,
        "memory FILE",
        "Say what held the memory at its peak, and what leaks.",
        "memory step.torchprof",
        "memory snapshot.pickle --device cuda:1",
        "memory step.torchprof --snapshot snapshot.pickle",
    )
    add_file(parser, snapshots=True)
    parser.add_argument("--device", help="such as cpu or cuda:1 (default: the one with the parameters, or with the most)")
    parser.add_argument(
        "--snapshot", metavar="SNAPSHOT", help="a CUDA memory snapshot of the same run, to read together with it"
    )
    add_output_options(parser)
    return parser


def run(options: argparse.Namespace) -> None:
    """Print the account."""
    account: Any
    if options.snapshot is not None:
        trace = trace_of(options.file)
        with working(f"reading {options.snapshot}"):
            account = torchprof.memory(trace, options.device, snapshot=options.snapshot)
    elif holds_snapshot(options.file):
        with working(f"reading {options.file}"):
            account = torchprof.memory(options.file, options.device)
    else:
        account = torchprof.memory(trace_of(options.file), options.device)
    emit(account, options)
