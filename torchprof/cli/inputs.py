"""Inputs of a model, as they are written on a command line.

    [NAME=][DTYPE:]SIZES        4,3,224,224    int64:2,128    input_ids=int64:B,128    scale=float32:

``B`` is the batch. Without a name they are positional arguments, in their order. Floats are random, and integers 0.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from torchprof.cli.arguments import UsageError, did_you_mean, number_of

if TYPE_CHECKING:
    import torch

__all__ = ["Input", "add_inputs", "dtype_named", "inputs_of"]

FORM: Final = "give [NAME=][DTYPE:]SIZES, such as 4,3,224,224 or ids=int64:B,128, where B is the batch"
WRITTEN: Final = re.compile(r"(?:(?P<name>[^=:,]*)=)?(?:(?P<dtype>[^=:,]*):)?(?P<sizes>[^=:]*)")
SHORT: Final = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32", "fp64": "float64", "half": "float16", "long": "int64"}
BATCH: Final = "B"


@dataclass(frozen=True, slots=True)
class Input:
    """One input.

    Attributes:
        name: of the keyword argument; empty for a positional one.
        dtype: its name; empty for that which PyTorch takes.
        sizes: of its dimensions; None is the batch.
    """

    name: str
    dtype: str
    sizes: tuple[int | None, ...]

    def with_batch(self, batch: int | None) -> tuple[int, ...]:
        """Its sizes. Where none is the batch and there is one, that comes first."""
        if batch is not None and None not in self.sizes:
            return (batch, *(size for size in self.sizes if size is not None))
        return tuple(size if size is not None else batch or 1 for size in self.sizes)


def add_inputs(parser: argparse.ArgumentParser, *, batch: str) -> None:
    """Declare ``--input`` and ``--batch``.

    Args:
        batch: more on what ``--batch`` means here.
    """
    parser.add_argument(
        "--input",
        "--input-size",
        metavar="INPUT",
        action="append",
        default=[],
        type=read_input,
        help="[NAME=][DTYPE:]SIZES of an input, such as 4,3,224,224 or ids=int64:B,128, where B is the batch; may be repeated",
    )
    parser.add_argument(
        "--batch",
        metavar="N",
        type=number_of("samples", 1),
        help=f"the batch: B in inputs or, of one without, a dimension before all others{batch}",
    )


def read_input(text: str) -> Input:
    """Reads one input."""
    found = WRITTEN.fullmatch(text.strip())
    if found is None or not (found["name"] is None or found["name"].isidentifier()):
        raise argparse.ArgumentTypeError(f"{text!r} is no input: {FORM}")
    if found["name"] is None and found["dtype"] is None and not found["sizes"].strip():
        raise argparse.ArgumentTypeError(f"{text!r} has no size: {FORM}")
    sizes: list[int | None] = []
    for size in found["sizes"].split(",") if found["sizes"].strip() else ():
        if size.strip() != BATCH and not (size.strip().isascii() and size.strip().isdigit()):
            raise argparse.ArgumentTypeError(f"{text!r} has the size {size.strip()!r}, which is no number: {FORM}")
        sizes.append(None if size.strip() == BATCH else int(size))
    return Input(found["name"] or "", found["dtype"] or "", tuple(sizes))


def inputs_of(given: list[Input], batch: int | None, device: str | None) -> Any:
    """The tensors that a model is called with: a tuple of positional ones, or a dict.

    Raises:
        UsageError: some have names and others not, two have the same, or a dtype is unknown.
    """
    import torch

    names = [each.name for each in given]
    if any(names) and not all(names):
        raise UsageError("--input: some have names and others not: name them all, as in --input ids=int64:2,128, or none")
    if twice := next((name for at, name in enumerate(names) if name and name in names[:at]), None):
        raise UsageError(f"--input {twice}=...: was given twice")
    tensors = []
    for each in given:
        dtype = dtype_named("--input", each.dtype) if each.dtype else torch.get_default_dtype()
        sizes = each.with_batch(batch)
        try:
            random = dtype.is_floating_point or dtype.is_complex
            tensors.append(
                torch.rand(sizes, device=device).to(dtype) if random else torch.zeros(sizes, dtype=dtype, device=device)
            )
        except (RuntimeError, AssertionError, TypeError, OverflowError) as error:
            raise UsageError(f"--input {','.join(map(str, sizes))}: cannot be made: {str(error).splitlines()[0]}") from None
    return dict(zip(names, tensors, strict=True)) if any(names) else tuple(tensors)


def dtype_named(argument: str, name: str, among: Sequence[str] = ()) -> torch.dtype:
    """The dtype of this name, such as ``"bfloat16"`` or ``"bf16"``.

    Args:
        among: the names of those that are accepted; by default all.

    Raises:
        UsageError: it is none of these.
    """
    import torch

    known = among or [each for each in dir(torch) if isinstance(getattr(torch, each), torch.dtype)]
    full = SHORT.get(name, name).removeprefix("torch.")
    found = getattr(torch, full, None)
    if not isinstance(found, torch.dtype):
        others = f": give {' or '.join(among)}" if among else ": give one such as float32, bfloat16 or int64"
        raise UsageError(f"{argument}: {name!r} is no dtype{did_you_mean(full, known) or others}")
    if among and full not in among:
        raise UsageError(f"{argument}: {name!r} is not accepted: give {' or '.join(among)}")
    return found
