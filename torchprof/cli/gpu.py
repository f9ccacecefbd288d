"""``torchprof gpu FILE``: how busy devices were, and why they were idle."""

from __future__ import annotations

import argparse
from typing import Any

import torchprof
from torchprof.cli.arguments import add_file, subcommand
from torchprof.cli.ceilings import add_ceilings, ceilings_of
from torchprof.cli.files import trace_of
from torchprof.cli.output import add_output_options, emit

__all__ = ["add_parser", "run"]


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Declare the arguments of ``gpu``."""
    parser = subcommand(
        subparsers,
        "gpu FILE",
        "Say how busy devices were, why they were idle, and who waited for them.",
        "gpu step.torchprof",
        "gpu trace.json.gz --json",
    )
    add_file(parser)
    add_ceilings(parser)
    add_output_options(parser)
    return parser


def run(options: argparse.Namespace) -> None:
    """Print the account."""
    emit(torchprof.gpu(trace_of(options.file, "kernels"), ceilings=ceilings_of(options)), options)
