"""Finds the steps of a program that does not mark them: where its optimizers have stepped, or where ranges are."""

from __future__ import annotations

import os
import sys
import types
import weakref
from collections.abc import Callable
from typing import Any, Final

import torch
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook

from torchprof.running.found_models import live_objects

__all__ = ["LOADER_RANGE", "OptimizerSteps", "Ranges"]

FIRST_TURN: Final = 10
"""How often an optimizer steps while others have not, until these are taken never to step."""
LOADER_RANGE: Final = "enumerate(DataLoader)"
"""How the names of ranges begin in which a loop waits for its next batch."""


class OptimizerSteps:
    """Calls a function when all optimizers have stepped that step in turns: a GAN has two.

    The turns change where one steps more than twice as often as in the last one, or a new one steps again, while others do not.
    An optimizer inside another, as the one that it wraps, does not count. A step that raises, or that a ``GradScaler`` leaves
    out, is none.
    """

    def __init__(self, then: Callable[[], None]) -> None:
        self._then = then
        self._process = os.getpid()
        self._turn: dict[int, int] = {}  # how often each stepped since the last call of the function
        self._expected: set[int] = set()
        self._last_turn: dict[int, int] = {}
        self._known: dict[int, weakref.ref[Optimizer]] = {}
        self._hook = register_optimizer_step_post_hook(self._after)

    def look(self) -> bool:
        """Look for the optimizers that there are. Whether there are any."""
        self._known = {key_of(each): weakref.ref(each) for each in live_objects(Optimizer) if steps_are_told(each)}
        self._expected = set(self._known)
        return bool(self._expected)

    def remove(self) -> None:
        """Listen no more."""
        self._hook.remove()

    def _after(self, optimizer: Optimizer, *_: Any) -> None:
        if os.getpid() != self._process:
            return
        key = key_of(optimizer)
        if is_inside_another():
            self._expected.discard(key)
            return
        if key not in self._expected and key not in self._turn:
            self._replace(optimizer)
        self._known[key] = weakref.ref(optimizer)
        count = self._turn[key] = self._turn.get(key, 0) + 1
        if self._expected <= self._turn.keys() or count >= self._most(key):
            self._expected, self._last_turn, self._turn = set(self._turn), self._turn, {}
            self._then()

    def _replace(self, optimizer: Optimizer) -> None:
        """One that was not known steps in place of those that are gone, and of those that have parameters of its own: a program
        changes its optimizer."""
        own = parameters_of(optimizer)
        for key in self._expected - self._turn.keys():
            other = self._known[key]() if key in self._known else None
            if other is None or not own.isdisjoint(parameters_of(other)):
                self._expected.discard(key)

    def _most(self, key: int) -> int:
        if not self._last_turn:
            return FIRST_TURN
        return 2 * self._last_turn[key] + 1 if key in self._last_turn else 2

    # Dynamo runs it as it is, and looks at nothing that it calls. After a step of compiled code that breaks no graph that would
    # not be broken without it; a hook before the step would.
    _after._torchdynamo_disable = True  # type: ignore[attr-defined]


HOOKED_STEP: Final = Optimizer.profile_hook_step(lambda: None).__code__
"""What runs around the ``step`` of every optimizer, and calls the hooks."""


def is_inside_another() -> bool:
    """Whether an optimizer whose hook runs has stepped inside the step of another, which stands for both."""
    frame: types.FrameType | None = sys._getframe(3)  # past the step that calls the hook
    while frame is not None and frame.f_code is not HOOKED_STEP:
        frame = frame.f_back
    return frame is not None


def key_of(optimizer: Optimizer) -> int:
    """What tells optimizers apart: the first parameter of each. One that wraps another has the same."""
    groups = optimizer.param_groups
    return id(groups[0]["params"][0]) if groups and groups[0]["params"] else id(optimizer)


def parameters_of(optimizer: Optimizer) -> set[int]:
    """What tells its parameters apart, while they live."""
    return {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}


def steps_are_told(optimizer: Optimizer) -> bool:
    """Whether hooks see its steps: not those of a class whose ``__init__`` calls none of PyTorch's."""
    return "param_groups" in vars(optimizer) and bool(getattr(type(optimizer).step, "hooked", False))


class Ranges:
    """Calls functions where a range of ``torch.profiler.record_function`` begins and ends, by how its name begins."""

    def __init__(self, name: str, begins: Callable[[], None], ends: Callable[[], None]) -> None:
        kind: Any = torch.autograd.profiler.record_function
        enter, leave = self._replaced = kind.__enter__, kind.__exit__
        process = os.getpid()

        def entered(self: Any) -> Any:
            if self.name.startswith(name) and os.getpid() == process:
                begins()
            return enter(self)

        def left(self: Any, *raised: Any) -> Any:
            result = leave(self, *raised)
            if self.name.startswith(name) and os.getpid() == process:
                ends()
            return result

        kind.__enter__, kind.__exit__ = entered, left

    def remove(self) -> None:
        """Listen no more."""
        kind: Any = torch.autograd.profiler.record_function
        kind.__enter__, kind.__exit__ = self._replaced
