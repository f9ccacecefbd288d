"""Who calls a function that an estimate has put in place of one of PyTorch: the program, or the compiler that works on it.

A program runs under fake tensors. Where it is compiled, Dynamo reads it instead, and sees the functions that are in place; what
AOTAutograd makes of it runs under fake tensors as well. The code that Inductor writes names devices of its own.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import IntEnum
from functools import wraps
from typing import Any, Final

import torch

from torchprof.estimation.torch_private import DYNAMO, ESTIMATE

__all__ = [
    "REPLACES",
    "Stage",
    "by_program",
    "called_instead",
    "forget_remarks",
    "in_an_estimate",
    "in_graph",
    "is_read",
    "originals",
    "program_builds",
    "remark",
    "remarked",
    "replaced",
    "stage",
    "undispatched",
    "with_code_of",
    "without_modes",
]


REPLACES: Final = "_torchprof_replaces"
"""An attribute of a function: the one whose place it takes."""


class Stage(IntEnum):
    """What works on the program, on one thread."""

    NONE = 0
    DYNAMO = 1
    GRAPH = 2
    INDUCTOR = 3


class _Now(threading.local):
    def __init__(self) -> None:
        self.stage = Stage.NONE
        self.remarks: set[str] = set()
        self.builds = False


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


@contextmanager
def program_builds() -> Iterator[None]:
    """The program builds its model on this thread, on ``meta`` and not under fake tensors, until the block ends."""
    before = _now.builds
    _now.builds = True
    try:
        yield
    finally:
        _now.builds = before


def remark(name: str) -> None:
    """Remember what was met while the program was compiled, of which nothing is recorded."""
    _now.remarks.add(name)


def remarked() -> set[str]:
    """What was met in the last estimate of this thread."""
    return _now.remarks


def forget_remarks() -> None:
    """To be called where an estimate begins."""
    _now.remarks = set()


def is_read() -> bool:
    """Whether Dynamo reads the program that is estimated. It asks once, for it takes the answer for a constant."""
    return _now.stage is Stage.DYNAMO


def by_program() -> bool:
    """Whether the program calls, rather than the compiler."""
    if torch.compiler.is_dynamo_compiling():
        return is_read()
    return _now.builds or (_now.stage <= Stage.DYNAMO and _is_fake_mode_active())


def in_graph() -> bool:
    """Whether the program calls, or the compiler does on its behalf, to find out what is returned."""
    if torch.compiler.is_dynamo_compiling():
        return is_read()
    if _now.stage is Stage.INDUCTOR:
        return False
    return _is_fake_mode_active() or _is_traced()


def in_an_estimate(original: Any, answer: Callable[..., Any], kind: type | None = None) -> Any:
    """A function that the program is given another answer of, or a class of which others stand for instances.

    Args:
        original: what is to be answered.
        answer: what answers; where it is a class, its instances pass for those of the original.
        kind: a class whose instances the program, but no compiler that reads it, takes for those of the original.
    """
    if isinstance(original, type):

        class Kind(type(original)):  # type: ignore[misc]
            def __instancecheck__(cls, instance: object) -> bool:
                if kind is not None and isinstance(instance, kind):
                    return not _is_traced()
                return isinstance(instance, (original, answer) if isinstance(answer, type) else original)

        def make(cls: type, *args: Any, **options: Any) -> Any:
            return (answer if by_program() else original)(*args, **options)

        return Kind(original.__name__, (original,), {"__new__": make, "__doc__": original.__doc__})

    @wraps(original, updated=())
    def call(*args: Any, **options: Any) -> Any:
        return (answer if by_program() else original)(*args, **options)

    return call


def _is_traced() -> bool:
    """Whether Dynamo is at it. Its stage is also that of a program which compiles parts, while it runs."""
    return _now.stage is Stage.DYNAMO and DYNAMO.TracingContext.try_get() is not None


def _is_fake_mode_active() -> bool:
    """As `torchprof.record.torch_private.is_fake_mode_active`, of names that are known to be there: it is asked very often."""
    return ESTIMATE.active_mode(ESTIMATE.FAKE) is not None


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """An attribute is another, until the block ends."""
    original = vars(owner).get(name, owner)  # the owner itself: it has inherited the attribute
    setattr(owner, name, value)
    try:
        _replaced.append((owner, name, original, value))
        yield
    finally:
        _put_back(owner, name, original)
        _replaced[:] = [each for each in _replaced if each[3] is not value or each[:2] != (owner, name)]


@contextmanager
def called_instead(function: Callable[..., Any], other: Callable[..., Any]) -> Iterator[None]:
    """Calls of a function of ``torch.distributed`` go to another one, until the block ends: also of those who imported it by
    name before. It is what a decorator of PyTorch has made, and calls what the decorator keeps."""
    cells: Any = getattr(function, "__closure__", None) or ()
    cell = next(cell for cell in cells if cell.cell_contents is getattr(function, "__wrapped__", None))
    kept, cell.cell_contents = cell.cell_contents, other
    try:
        yield
    finally:
        cell.cell_contents = kept


@contextmanager
def with_code_of(function: Callable[..., Any], other: Callable[..., Any]) -> Iterator[None]:
    """As `called_instead`, of a function that no decorator may have made. The other one takes the same arguments and uses no
    names but these."""
    undecorated: Any = inspect.unwrap(function)
    instead: Any = other
    kept, undecorated.__code__ = undecorated.__code__, instead.__code__
    try:
        yield
    finally:
        undecorated.__code__ = kept


_replaced: Final[list[tuple[Any, str, Any, Any]]] = []
"""What is in place of something else now: its owner and name, what was there, and what is; the latest last."""


@contextmanager
def originals() -> Iterator[None]:
    """Nothing is in place of something else, until the block ends."""
    now = [*_replaced]
    try:
        for owner, name, original, _ in reversed(now):
            _put_back(owner, name, original)
        yield
    finally:
        for owner, name, _, value in now:
            setattr(owner, name, value)


def _put_back(owner: Any, name: str, original: Any) -> None:
    if original is owner:
        delattr(owner, name)
    else:
        setattr(owner, name, original)


def undispatched(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, which works on real tensors alone, also where fake ones are made. It must not ask which modes there are."""

    @wraps(function)
    def real(*args: Any, **options: Any) -> Any:
        no_modes = ESTIMATE.DisableTorchDispatch()  # a tenth of what it takes to leave all modes and enter them again
        try:
            return function(*args, **options)
        finally:
            del no_modes

    return real


def without_modes(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, which runs as where there are no fake tensors."""

    @wraps(function)
    def real(*args: Any, **options: Any) -> Any:
        with ESTIMATE.disable_modes():
            return function(*args, **options)

    return real
