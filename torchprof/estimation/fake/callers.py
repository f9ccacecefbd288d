"""Who calls a function that an estimate has put in place of one of PyTorch: the program, or the compiler that works on it.

A program runs under fake tensors. Where it is compiled, Dynamo reads it instead, and sees the functions that are in place; what
AOTAutograd makes of it runs under fake tensors as well. The code that Inductor writes names devices of its own.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum

import torch

from torchprof import _native
from torchprof.estimation.torch_private import COMPILE
from torchprof.record.torch_private import is_fake_mode_active

__all__ = ["Stage", "by_program", "in_graph", "is_read", "mark", "stage"]


class Stage(IntEnum):
    """What works on the program, on one thread."""

    NONE = 0
    DYNAMO = 1
    GRAPH = 2
    INDUCTOR = 3


class _Now(threading.local):
    stage = Stage.NONE


_now = _Now()


@contextmanager
def stage(reached: Stage) -> Iterator[None]:
    """This works on the program of this thread, until the block ends."""
    before = _now.stage
    _now.stage = reached
    try:
        yield
    finally:
        _now.stage = before


def mark(name: str) -> None:
    """Have a range of this name in the trace, though the compiler is at work, of which nothing is recorded."""
    _native.resume_recording([], 0)
    try:
        with torch.profiler.record_function(name):
            pass
    finally:
        _native.pause_recording()


def is_read() -> bool:
    """Whether Dynamo reads the program that is estimated. It asks once, for it takes the answer for a constant."""
    return _now.stage is Stage.DYNAMO


def by_program() -> bool:
    """Whether the program calls, rather than the compiler."""
    if torch.compiler.is_dynamo_compiling():
        return is_read()
    return _now.stage <= Stage.DYNAMO and is_fake_mode_active()


def in_graph() -> bool:
    """Whether the program calls, or the compiler does on its behalf, to find out what is returned."""
    if torch.compiler.is_dynamo_compiling():
        return is_read()
    if _now.stage is Stage.INDUCTOR:
        return False
    return is_fake_mode_active() or (_now.stage is Stage.DYNAMO and COMPILE.TracingContext.try_get() is not None)
