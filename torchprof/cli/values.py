"""Values that arguments are written as: sizes of memory, names of dtypes, and what Python would read."""

from __future__ import annotations

import argparse
import ast
from collections.abc import Iterable
from typing import Any, Final

import torchprof
from torchprof.errors import ArgumentError
from torchprof.sizes import bytes_of

__all__ = ["assignment", "budget", "gpu_or_bytes", "gpus_to_complete", "python_value"]

MIB: Final = 2**20
MOST: Final = 2**62


def gpu_or_bytes(text: str) -> int | str:
    """Reads the name of a GPU, or memory such as ``40GiB``: what functions take as ``capacity``."""
    from torchprof.allocator.gpus import capacity_of, gpu_named  # which loads numpy, and help needs none

    try:
        return gpu_named(text) or capacity_of(text)
    except ArgumentError as error:
        raise argparse.ArgumentTypeError(str(error).removeprefix("capacity=")) from None


def budget(text: str) -> int:
    """Reads bytes such as ``64 MiB``, or a number of MiB: at least one."""
    found = bytes_of(text, plain=MIB)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no size: give memory such as '64 MiB' or 1GiB, or a number of MiB")
    if not MIB <= found <= MOST:
        raise argparse.ArgumentTypeError(f"{text!r} must be at least 1 MiB and at most 2**62 bytes: give '64 MiB' or 1GiB")
    return found


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
