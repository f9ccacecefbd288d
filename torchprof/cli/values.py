"""Values that arguments are written as: sizes of memory, names of dtypes, and what Python would read."""

from __future__ import annotations

import argparse
import ast
import re
from collections.abc import Iterable
from typing import Any, Final

import torchprof
from torchprof.cli.arguments import did_you_mean

__all__ = ["assignment", "budget", "gpu_or_bytes", "gpus_to_complete", "python_value"]

UNITS: Final = {
    "": 1,
    "b": 1,
    **{f"{letter}b": 1000**power for power, letter in enumerate("kmgt", 1)},
    **{f"{letter}ib": 1024**power for power, letter in enumerate("kmgt", 1)},
}
MIB: Final = 2**20
MOST: Final = 2**62
LONGEST: Final = 100
"""Digits, of which floats can be made."""
AMOUNT: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)")


def gpu_or_bytes(text: str) -> int | str:
    """Reads the name of a GPU, or a number of bytes such as ``40GiB``."""
    if text in torchprof.GPUS:
        return text
    if count := _bytes(text, 1):
        return count
    names, near = ", ".join(torchprof.GPUS), did_you_mean(text, torchprof.GPUS)
    raise argparse.ArgumentTypeError(
        f"{text!r} is no known GPU and no size{near or ':'} give memory such as 40GiB, or one of {names}"
    )


def budget(text: str) -> int:
    """Reads bytes such as ``64 MiB``, or a number of MiB: at least one."""
    found = _bytes(text, MIB)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no size: give memory such as '64 MiB' or 1GiB, or a number of MiB")
    if not MIB <= found <= MOST:
        raise argparse.ArgumentTypeError(f"{text!r} must be at least 1 MiB and at most 2**62 bytes: give '64 MiB' or 1GiB")
    return found


def _bytes(text: str, plain: int) -> int | None:
    """An amount of memory.

    Args:
        plain: bytes of the unit where none is written.
    """
    found = AMOUNT.fullmatch(text.strip())
    factor = {**UNITS, "": plain}.get(found[2].lower()) if found else None
    return int(float(found[1]) * factor) if found and factor and len(found[1]) < LONGEST else None


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
