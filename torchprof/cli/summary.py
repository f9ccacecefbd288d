"""``torchprof summary package.module:factory``: the layers of a model of the user's own."""

from __future__ import annotations

import argparse
from contextlib import nullcontext
from typing import Any

import torchprof
from torchprof.cli.arguments import UsageError, completes, number_of, subcommand, text_list
from torchprof.cli.inputs import add_inputs, inputs_of
from torchprof.cli.output import add_output_options, paged, write_json
from torchprof.cli.targets import add_target, builder_of, of_the_user

__all__ = ["add_parser", "run"]


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Declare the arguments of ``summary``."""
    parser = subcommand(
        subparsers,
        "summary MODEL",
        "Show the layers of a model: shapes, parameters, FLOPs, time.",
        "summary package.module:Net --input-size 4,3,224,224",
        "summary models.py:make_model --arg num_classes=10 --input 3,224,224 --batch 8 --depth 2",
        "summary package.module:Bert --input input_ids=int64:2,128 --input attention_mask=int64:2,128 --device meta",
    )
    add_target(parser)
    add_inputs(parser, batch="")
    parser.add_argument("--device", help="where to build and run it, such as cuda; on meta nothing is computed (default: cpu)")
    parser.add_argument("--depth", metavar="N", type=number_of("levels", 0), help="go no deeper")
    columns = parser.add_argument(
        "--columns", metavar="A,B,...", type=text_list, help="these columns instead of the usual ones"
    )
    completes(columns, columns_to_complete)
    parser.add_argument("--backward", action="store_true", help="run a backward pass too, from the sum of all outputs")
    parser.add_argument("--fold", action="store_true", help="show runs of identical layers as one row")
    parser.add_argument(
        "--warmup", metavar="N", type=number_of("passes", 0), default=0, help="forward passes before the one shown"
    )
    parser.add_argument("--train", action="store_true", help="in train mode, whatever mode it is built in")
    parser.add_argument("--eval", action="store_true", help="in eval mode")
    add_output_options(parser)
    return parser


def run(options: argparse.Namespace) -> None:
    """Print the summary."""
    import torch

    if options.train and options.eval:
        raise UsageError("--train and --eval: a model is in one mode: give one of them")
    device = _device(options.device)
    with of_the_user(options.model):
        build = builder_of(options)
        with torch.device(device) if device is not None else torch.device("cpu"):
            model = build()
        if device is not None:
            model = model.to(device)
        if options.train or options.eval:
            model.train(options.train)
        data = inputs_of(options.input, options.batch, device or _device_of(model)) if options.input else None
        if data is None and options.batch is not None:
            raise UsageError(f"--batch {options.batch} needs --input")
        with nullcontext() if options.json else paged(options):
            shown = torchprof.summary(
                model,
                input_data=data,
                depth=options.depth,
                columns=options.columns,
                backward=options.backward,
                fold=options.fold,
                warmup=options.warmup,
                width=options.width,
                verbose=0 if options.json else 1,  # where the model raises, the table up to there is printed, too
            )
    if options.json:
        write_json(shown.to_dict())


def _device(name: str | None) -> Any:
    """The device of this name.

    Raises:
        UsageError: there is none.
    """
    import torch

    try:
        if name is not None:
            torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"--device {name}: {str(error).splitlines()[0]}") from None
    return name


def _device_of(model: Any) -> Any:
    return next((tensor.device for tensor in (*model.parameters(), *model.buffers())), None)


def columns_to_complete(prefix: str, **_: Any) -> list[str]:
    """The columns of a summary, behind those that are written already."""
    from torchprof.tables.summary import summary_columns

    written, comma, _last = prefix.rpartition(",")
    return [f"{written}{comma}{name}" for name in summary_columns() if name not in written.split(",")]
