"""``torchprof plan --model llama-70b.json``: which configurations of a training fit, on how many of which GPU."""

from __future__ import annotations

import argparse
import re
from typing import Any, Final

import torchprof
from torchprof.cli.arguments import WRONG_ARGUMENTS, UsageError, completes, number_of, subcommand
from torchprof.cli.estimate import optimizer_named, optimizers_to_complete
from torchprof.cli.model_configs import model_config
from torchprof.cli.output import add_output_options, emit
from torchprof.cli.targets import add_arg
from torchprof.cli.values import gpu_or_bytes, gpus_to_complete, python_value

__all__ = ["add_parser", "run"]

NOTHING_FITS: Final = 1
INTERRUPTED: Final = 130
ABOUT: Final = """Say which shardings of a transformers model fit, on how many of which GPU.

It exits with 0; with 1 where none fits; with 2 where it failed; with 130 after Ctrl-C, when what is known was printed."""
PREFIXES: Final = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}
TOKENS: Final = re.compile(r"(\d[\d_,]{0,20})\s*([kMG]i?|Ki)?")
RANGE: Final = re.compile(r"(\d{1,9})\.\.(\d{1,9})")


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Declare the arguments of ``plan``."""
    parser = subcommand(
        subparsers,
        "plan --model MODEL --sequence N",
        ABOUT,
        "plan --model llama-70b.json --gpus 8..64 --gpu H200 --sequence 8192 --tokens-per-step 4Mi",
        "plan --model LlamaConfig --arg num_hidden_layers=16 --sequence 4096 --batch 1,2,4 --gpus 8 --over tp=1,2",
        "plan --model config.json --sequence 8192 --over tp=8 --over checkpointing=selective,full --json",
    )
    parser.add_argument(
        "--model",
        metavar="MODEL",
        dest="build_with",
        help="a configuration of transformers: a JSON file with its model_type and sizes, or the name of its class",
    )
    add_arg(parser, "a size of the configuration, such as num_hidden_layers=16")
    parser.add_argument(
        "--gpus",
        metavar="N",
        type=counts,
        default=[8, 16, 32, 64],
        help="how many, such as 8,16 or 8..64, which doubles (default: 8..64)",
    )
    gpu = parser.add_argument(
        "--gpu",
        metavar="GPU",
        type=gpu_or_bytes,
        default="H100-80GB",
        help="which, or memory such as 40GiB (default: H100-80GB)",
    )
    completes(gpu, gpus_to_complete)
    parser.add_argument("--sequence", metavar="N", type=numbers, help="tokens of a sample; or several, such as 4096,8192")
    parser.add_argument(
        "--batch", metavar="N", type=numbers, default=[1], help="samples that a rank has at once; or several (default: 1)"
    )
    parser.add_argument(
        "--tokens-per-step",
        metavar="N",
        type=tokens,
        help="of the optimizer, of all ranks, such as 4Mi (default: as many as the ranks have at once)",
    )
    parser.add_argument(
        "--over",
        metavar="NAME=VALUES",
        action="append",
        type=values,
        help="what to try of replicate, fsdp, tp, checkpointing or precision, such as tp=1,2,4 or fsdp=...; may be repeated",
    )
    optimizer = parser.add_argument(
        "--optimizer", metavar="NAME", default="AdamW", help="of torch.optim, or package.module:name (default: AdamW)"
    )
    completes(optimizer, optimizers_to_complete)
    parser.add_argument(
        "--processes", metavar="N", type=number_of("processes", 1), help="estimate so many at once (default: 2, if that helps)"
    )
    parser.add_argument("--no-cache", dest="cache", action="store_false", help="estimate anew what was estimated before")
    add_output_options(parser)
    parser.set_defaults(failed=WRONG_ARGUMENTS)
    return parser


def run(options: argparse.Namespace) -> int:
    """Print the plan, and return the exit code."""
    if options.build_with is None:
        raise UsageError("--model is needed: a JSON file with a configuration of transformers, or the name of its class")
    if options.sequence is None:
        raise UsageError("--sequence is needed: how many tokens a sample has, such as --sequence 8192")
    found = torchprof.plan(
        model_config(options.build_with, dict(options.arg)),
        gpus=options.gpus,
        gpu=options.gpu,
        batch=options.batch,
        sequence=options.sequence,
        tokens_per_step=options.tokens_per_step,
        over=dict(options.over) if options.over is not None else None,
        optimizer=optimizer_named(options.optimizer),
        cache=options.cache,
        processes=options.processes,
    )
    emit(found, options)
    if found.interrupted:
        return INTERRUPTED
    return 0 if found.best is not None else NOTHING_FITS


def counts(text: str) -> list[int]:
    """Reads how many GPUs: ``8``, ``8,16`` or ``8..64``, of which each is twice the one before."""
    found = RANGE.fullmatch(text.strip())
    if found is None:
        return numbers(text)
    count, last = int(found[1]), int(found[2])
    if not 1 <= count <= last:
        raise argparse.ArgumentTypeError(f"{text!r} is no range: give the fewer first, at least 1, such as 8..64")
    counted = []
    while count <= last:
        counted.append(count)
        count *= 2
    return counted


def numbers(text: str) -> list[int]:
    """Reads whole numbers with commas between them."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and len(part) < 10 and int(part) for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is no number, and no numbers with commas between them: give 8, or 8,16")
    return [int(part) for part in parts]


def tokens(text: str) -> int:
    """Reads a number of tokens: ``4194304``, ``4Mi``, ``4M``."""
    found = TOKENS.fullmatch(text.strip())
    count = int(re.sub("[_,]", "", found[1])) * PREFIXES[found[2] or ""] if found else 0
    if not 0 < count < 2**60:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of tokens: give 4194304, 4Mi or 4M")
    return count


def values(text: str) -> tuple[str, list[Any]]:
    """Reads ``tp=1,2,4``, ``checkpointing=full`` or ``fsdp=...``."""
    name, equals, given = text.partition("=")
    parts = [part.strip() for part in given.split(",")]
    if not equals or not name.strip().isidentifier() or not all(parts):
        raise argparse.ArgumentTypeError(f"{text!r} is no name with its values: give NAME=VALUES, such as tp=1,2,4")
    return name.strip(), [python_value(part) for part in parts]
