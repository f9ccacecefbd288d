"""What a device can do, as it is written on a command line: ``--ceilings H100-80GB:bf16``, ``989TFLOPS,3350GB`` or ``here``."""

from __future__ import annotations

import argparse
import re
from typing import Any, Final

import torchprof
from torchprof.cli.arguments import completes
from torchprof.cli.progress import working
from torchprof.errors import ArgumentError
from torchprof.trace.ceilings import PUBLISHED
from torchprof.wording import meant

__all__ = ["add_ceilings", "ceilings_of"]

HERE: Final = "here"
SHORT: Final = {"bf16": "bfloat16", "fp8": "float8", "fp16": "float16", "half": "float16", "fp32": "float32"}
FORM: Final = "give a GPU such as H100-80GB:bf16, rates such as 989TFLOPS,3350GB, or here to measure this machine"
RATES: Final = re.compile(
    r"(?P<flops>[\d.]+)\s*(?P<flops_prefix>[MGTP])(?:FLOPS?(?:/s)?)?,\s*"
    r"(?P<bytes>[\d.]+)\s*(?P<bytes_prefix>[MGT])B?(?:/s)?"
)
PREFIXES: Final = {"M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15}


def add_ceilings(parser: argparse.ArgumentParser) -> None:
    """Declare ``--ceilings``."""
    action = parser.add_argument(
        "--ceilings",
        metavar="WHAT",
        type=read_ceilings,
        help="what the device could do, for utilization and the roof: a GPU and a dtype as published, such as H100-80GB:bf16; "
        "rates of your own, such as 989TFLOPS,3350GB; or here:bf16, measured on this machine",
    )
    completes(action, lambda prefix, **_: [*PUBLISHED, HERE])


def ceilings_of(options: argparse.Namespace) -> torchprof.Ceilings | None:
    """Those that were given; None where none were.

    Raises:
        TorchprofError: this machine cannot be measured.
    """
    given: torchprof.Ceilings | str | None = options.ceilings
    if not isinstance(given, str):
        return given
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    with working("measuring this machine"):
        return torchprof.ceilings(device, getattr(torch, given))


def read_ceilings(text: str) -> torchprof.Ceilings | str:
    """Reads ceilings; for those that are to be measured, the name of the dtype."""
    name, _, dtype = text.partition(":")
    dtype = SHORT.get(dtype, dtype or "float32")
    if name == HERE:
        if dtype not in ("float32", "float16", "bfloat16", "float64"):
            raise argparse.ArgumentTypeError(f"{text!r}: {dtype!r} is not measured: give float32, float16, bfloat16 or float64")
        return dtype
    found: Any = RATES.fullmatch(text.strip())
    if found is not None:
        try:
            rates = [float(found[each]) * PREFIXES[found[f"{each}_prefix"]] for each in ("flops", "bytes")]
        except ValueError:
            rates = [0.0]
        if all(rates):
            return torchprof.Ceilings("a device of these rates", "any dtype", 0, *rates)
    try:
        return torchprof.Ceilings.published(name, dtype)
    except ArgumentError as error:
        if str(error).startswith("dtype="):
            raise argparse.ArgumentTypeError(f"{text!r}: {str(error).partition('=')[2]}") from None
        near = meant(name, PUBLISHED)
        raise argparse.ArgumentTypeError(
            f"{text!r} is no GPU whose rates are known here, and no rates{near or ': ' + FORM}"
        ) from None
