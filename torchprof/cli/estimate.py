"""``torchprof estimate package.module:factory``: what a training step needs, whether it fits, and the largest batch."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, cast

import torchprof
from torchprof.cli.arguments import WRONG_ARGUMENTS, UsageError, completes, did_you_mean, given_as, number_of, subcommand
from torchprof.cli.inputs import Input, add_inputs, dtype_named, inputs_of
from torchprof.cli.output import add_output_options, paged, write_json
from torchprof.cli.progress import working
from torchprof.cli.targets import add_target, attribute_of, builder_of, of_the_user
from torchprof.cli.values import assignment, gpu_or_bytes, gpus_to_complete
from torchprof.terminal import is_terminal
from torchprof.wording import shown

__all__ = ["add_parser", "optimizer_named", "optimizers_to_complete", "run"]


AUTOCAST: Final = ("bfloat16", "float16")
"""What autocast computes in."""
DOES_NOT_FIT: Final = 1
ABOUT: Final = """Predict what a training step needs, whether it fits, and the largest batch.

It is for one GPU: `torchprof plan` is for several, and torchprof.estimate(build, inputs, world_size=...) in Python.

It exits with 0; with 1 where it does not fit --gpu, or that is not known; with 2 where it failed."""


@dataclass(frozen=True, slots=True)
class Optimizer:
    """Makes an optimizer of parameters, and is named as it was given."""

    name: str
    make: Callable[..., Any]
    arguments: dict[str, Any]

    def __call__(self, parameters: Any) -> Any:
        return self.make(parameters, **self.arguments)

    def __repr__(self) -> str:
        return " ".join([self.name, *(f"--optimizer-arg {name}={value}" for name, value in self.arguments.items())])


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Declare the arguments of ``estimate``."""
    parser = subcommand(
        subparsers,
        "estimate MODEL --input INPUT",
        ABOUT,
        "estimate package.module:Net --input 3,224,224 --batch 64 --optimizer AdamW --gpu H100-80GB",
        "estimate package.module:Llama --input input_ids=int64:B,4096 --optimizer AdamW --amp bf16 --gpu A100-80GB",
        "estimate models.py:Net --input 64,3,224,224 --optimizer SGD --optimizer-arg lr=0.1 --optimizer-arg momentum=0.9",
    )
    add_target(parser)
    add_inputs(parser, batch=" (default: 1, if any input has a B)")
    optimizer = parser.add_argument(
        "--optimizer", metavar="NAME", help="of torch.optim, such as AdamW, or package.module:name (default: no optimizer)"
    )
    completes(optimizer, optimizers_to_complete)
    parser.add_argument(
        "--optimizer-arg",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        type=assignment,
        help="such as lr=0.1; may be repeated",
    )
    parser.add_argument("--loss", metavar="NAME", help="package.module:name of a function of what the model returns")
    gpu = parser.add_argument(
        "--gpu",
        metavar="GPU",
        type=gpu_or_bytes,
        help="whether it fits there: a GPU such as H100-80GB, or memory such as 40GiB",
    )
    completes(gpu, gpus_to_complete)
    parser.add_argument(
        "--max-batch",
        action=argparse.BooleanOptionalAction,
        help="find the largest batch that fits the GPU, which takes some estimates (default: if there is a --gpu)",
    )
    parser.add_argument("--amp", metavar="DTYPE", help="under autocast with this dtype: bf16 or fp16")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="where it will run (default: cuda)")
    parser.add_argument("--allocator", metavar="SETTINGS", default="", help="as in PYTORCH_ALLOC_CONF")
    parser.add_argument("--compile", action="store_true", help="the step of torch.compile(model), which takes its time")
    parser.add_argument(
        "--routing",
        choices=("balanced",),
        help="assume that routers of experts, which read how many tokens go where, send as many to each (default: refused)",
    )
    parser.add_argument(
        "--steps", metavar="N", type=number_of("steps", 1), default=2, help="how many steps to run (default: 2)"
    )
    add_output_options(parser)
    parser.set_defaults(failed=WRONG_ARGUMENTS)
    return parser


def run(options: argparse.Namespace) -> int:
    """Print the estimate, and return the exit code."""
    if not options.input:
        raise UsageError("--input is needed, such as --input 64,3,224,224: what the model is trained with")
    if options.max_batch and options.gpu is None:
        raise UsageError("--max-batch needs --gpu GPU, such as --gpu H100-80GB: it has to fit somewhere")
    if options.optimizer_arg and options.optimizer is None:
        raise UsageError(f"--optimizer-arg {options.optimizer_arg[0][0]} needs --optimizer NAME, such as AdamW")
    searches = options.max_batch if options.max_batch is not None else options.gpu is not None
    with of_the_user(options.model):
        build = builder_of(options)
        settings: dict[str, Any] = {
            "optimizer": _optimizer(options),
            "loss": _function("--loss", options.loss) if options.loss is not None else None,
            "amp": dtype_named("--amp", options.amp, AUTOCAST) if options.amp is not None else None,
            "device": options.device,
            "allocator": _settings(options.allocator),
            "compile": options.compile,
            "routing": options.routing,
            "steps": options.steps,
        }
        with working("estimating"):
            found = torchprof.estimate(build, inputs_of(options.input, options.batch, "meta"), capacity=options.gpu, **settings)
        largest = _largest_batch(options, build, settings) if searches else None
    if options.json:
        write_json({**found.to_dict(), "max_batch_size": largest, "fitting_gpus": found.fitting_gpus()})
    else:
        from torchprof.cli.ways_out import WithWaysOut

        with paged(options):
            WithWaysOut(found, _ways_out(options, found, largest)).print(width=options.width)
    return DOES_NOT_FIT if options.gpu is not None and found.fits() is not True else 0


def _ways_out(options: argparse.Namespace, found: torchprof.Estimate, largest: int | None) -> list[str]:
    """What is said below the verdict: the largest batch, and what else would do."""
    lines = []
    if largest is not None:
        lines += [
            f"Largest batch that fits: {largest:,}" if largest else "Largest batch that fits: none, not even the smallest"
        ]
        if not any(None in each.sizes for each in options.input) and options.batch is None:
            lines += ["The batch: taken to be the first dimension of every input; --batch, or B in --input, says otherwise"]
    elif options.gpu is not None and found.fits() is not True:
        lines += ["A smaller batch may fit: --max-batch finds it"]
    if options.gpu is not None and found.fits() is not True and options.amp is None:
        lines += ["Or less per sample: --amp bf16 estimates it under autocast"]
    if options.gpu is not None and found.fits() is not True and options.device == "cuda":
        lines += ["Or on several GPUs: torchprof plan, or torchprof.estimate(build, inputs, world_size=...) in Python"]
    return lines


def _largest_batch(options: argparse.Namespace, build: Callable[[], Any], settings: dict[str, Any]) -> int:
    """The largest batch that fits, found by trying: a line for each on a terminal."""
    given: list[Input] = options.input
    if options.batch is None and not any(None in each.sizes for each in given):
        given = [Input(each.name, each.dtype, (None, *each.sizes[1:])) if each.sizes else each for each in given]
    if is_terminal(sys.stderr):
        print("Looking for the largest batch that fits:", file=sys.stderr)
    return torchprof.max_batch_size(build, lambda batch: inputs_of(given, batch, "meta"), options.gpu, **settings)


def _optimizer(options: argparse.Namespace) -> Callable[..., Any] | None:
    """What makes the optimizer."""
    if options.optimizer is None:
        return None
    return Optimizer(options.optimizer, optimizer_named(options.optimizer), dict(options.optimizer_arg))


def optimizer_named(name: str) -> Callable[..., Any]:
    """The class of an optimizer, by its name in ``torch.optim``, or by that of a function of the user's own.

    Raises:
        UsageError: there is none.
    """
    if ":" in name:
        return _function("--optimizer", name)
    import torch

    known = optimizers_to_complete("")
    if name not in known:
        near = did_you_mean(name, known) or f": give one of {', '.join(known)}, or package.module:name"
        raise UsageError(f"--optimizer {name}: torch.optim has none of this name{near}")
    found: Callable[..., Any] = getattr(torch.optim, name)
    return found


def _function(option: str, name: str) -> Callable[..., Any]:
    """What a name of the user's own names, if it can be called."""
    found = attribute_of(option, name)
    if not callable(found):
        raise UsageError(f"{option} {name} is no function: {shown(found)}")
    return cast("Callable[..., Any]", found)


def _settings(text: str) -> str:
    """Settings of the allocator, as they were given."""
    with given_as("--allocator"):
        torchprof.AllocatorSettings.parse(text)
    return text


def optimizers_to_complete(prefix: str, **_: Any) -> list[str]:
    """The names of PyTorch's optimizers."""
    import torch

    kinds = {name: kind for name, kind in vars(torch.optim).items() if isinstance(kind, type)}
    return [
        name for name, kind in kinds.items() if issubclass(kind, torch.optim.Optimizer) and kind is not torch.optim.Optimizer
    ]
