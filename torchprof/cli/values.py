"""Values that arguments are written as: sizes of memory, names of dtypes, and what Python would read."""

from __future__ import annotations

import argparse
import ast
import re
from collections.abc import Iterable
from typing import Any, Final

import torchprof
from torchprof.cli.arguments import did_you_mean

__all__ = ["assignment", "gpu_or_bytes", "gpus_to_complete", "python_value"]

UNITS: Final = {
    "": 1,
    "b": 1,
    **{f"{letter}b": 1000**power for power, letter in enumerate("kmgt", 1)},
    **{f"{letter}ib": 1024**power for power, letter in enumerate("kmgt", 1)},
}
AMOUNT: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)")


def gpu_or_bytes(text: str) -> int | str:
    """Reads the name of a GPU, or a number of bytes such as ``40GiB``."""
    if text in torchprof.GPUS:
        return text
    found = AMOUNT.fullmatch(text.strip())
    factor = UNITS.get(found[2].lower()) if found else None
    if found and factor and (count := int(float(found[1]) * factor)):
        return count
    names, near = ", ".join(torchprof.GPUS), did_you_mean(text, torchprof.GPUS)
    raise argparse.ArgumentTypeError(
        f"{text!r} is no known GPU and no size{near or ':'} give memory such as 40GiB, or one of {names}"
    )


def gpus_to_complete(prefix: str, **_: Any) -> Iterable[str]:
    """The names of GPUs."""
    return list(torchprof.GPUS)


def python_value(text: str) -> Any:
    """What Python reads there, such as ``10``, ``True`` or ``(3, 4)``; else the text itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text


def assignment(text: str) -> tuple[str, Any]:
    """Reads ``name=value``."""
    name, equals, value = text.partition("=")
    if not equals or not name.strip().isidentifier():
        raise argparse.ArgumentTypeError(f"{text!r} is no argument with its value: give NAME=VALUE, such as num_classes=10")
    return name.strip(), python_value(value.strip())
