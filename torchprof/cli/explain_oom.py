"""``torchprof explain-oom SNAPSHOT``: why a program ran out of memory, and what would have saved it."""

from __future__ import annotations

import argparse
from typing import Any

import torchprof
from torchprof.cli.arguments import completes, subcommand
from torchprof.cli.files import holds_snapshot, is_trace, quoted
from torchprof.cli.output import add_output_options, emit
from torchprof.cli.progress import working
from torchprof.cli.values import gpu_or_bytes, gpus_to_complete
from torchprof.errors import TraceFileError

__all__ = ["add_parser", "run"]


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Declare the arguments of ``explain-oom``."""
    parser = subcommand(
        subparsers,
        "explain-oom SNAPSHOT",
        "Say why a program ran out of memory, and which settings would have saved it.",
        "explain-oom snapshot.pickle",
        "explain-oom snapshot.pickle --capacity A100-80GB",
    )
    parser.add_argument("file", metavar="SNAPSHOT", help="what torch.cuda.memory._dump_snapshot wrote after the error")
    parser.add_argument("--device", help="such as cuda:1 (default: the one whose request failed)")
    capacity = parser.add_argument(
        "--capacity", metavar="GPU", type=gpu_or_bytes, help="what the device has: a GPU such as A100-80GB, or 40GiB"
    )
    completes(capacity, gpus_to_complete)
    add_output_options(parser)
    return parser


def run(options: argparse.Namespace) -> None:
    """Print the explanation."""
    if not holds_snapshot(options.file) and is_trace(options.file):
        raise TraceFileError(
            f"{options.file}: not a memory snapshot, which torch.cuda.memory._dump_snapshot writes: for a trace, "
            f"torchprof memory {quoted(options.file)}"
        )
    with working(f"replaying {options.file}"):
        explained = torchprof.explain_oom(options.file, options.device, capacity=options.capacity)
        explained.to_dict()  # where the time goes
    emit(explained, options)
