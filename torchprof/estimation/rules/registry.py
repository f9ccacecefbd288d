"""The one way to register a rule, and the table of all of them. See `torchprof.estimation.rules` for how to add one."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cache
from typing import Any, Final, TypeVar

import torch

from torchprof.estimation.target import Device, Target

__all__ = ["RULES", "Kind", "Rule", "TargetKernel", "Workspaces", "all_rules", "overload", "rule"]


class Kind(Enum):
    """What a rule changes, and with it what its function is given and returns. ``op`` is a ``torch._ops.OpOverload``."""

    KERNEL = "the kernel that the dispatcher runs for an op: (op, *args, **kwargs) -> what the op returns"
    TARGET_KERNEL = (
        "the same, where it depends on the GPU: a class of `TargetKernel`, made once for an estimate from its target"
    )
    FAKE_KERNEL = "what an op returns, in place of PyTorch's fake kernel: (*args, **kwargs) -> result"
    SPARSE_KERNEL = "the same, where an argument is sparse: (op, *args, **kwargs) -> result, or NotImplemented"
    RESULT = "what PyTorch's fake kernel returned: (op, args, kwargs, returned) -> result"
    ORDER = "the order in which results are allocated: (results) -> the same, in that order"
    IN_PLACE = "the op: (op, args) -> the op that writes to its first argument instead, or None to leave it"
    WORKSPACE = "what kernels need beside their results: a class of `Workspaces`, made once for an estimate from its target"
    BACKWARD_NODE = "a node of the autograd graph, counted as one kernel: (node) -> bytes needed beside its results"
    OPTIMIZER = "an optimizer that was just made: (optimizer, real_ops) -> None"
    OVERHEAD = "memory that is not the program's own: (trace, target) -> Overhead, or None for none"
    NOTE = "what the estimate says is not in it: (trace, target) -> text, or None to say nothing"
    PATCH = "a function of another library: (target) -> a context manager, entered while the program runs"


class TargetKernel:
    """A kernel of an op that depends on the GPU. Called with the op and its arguments, it returns what the op does.

    Args:
        target: what the estimate is for.
    """

    def __init__(self, target: Target) -> None:
        self.target = target

    def __call__(self, op: Any, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError

    def notes(self) -> Iterable[str]:
        """What another GPU would do otherwise, for the notes of the estimate."""
        return ()


class Workspaces:
    """What kernels need beside their results while they run.

    Args:
        target: what the estimate is for.
    """

    def __init__(self, target: Target) -> None:
        self.target = target

    def bytes(self, op: Any, args: Any, kwargs: Any, results: list[torch.Tensor]) -> int | tuple[int, ...]:
        """What the kernel of an op needs: one block, or several at once."""
        raise NotImplementedError

    @property
    def unknown(self) -> int:
        """Bytes that may be needed beyond what `bytes` says, at most."""
        return 0

    def notes(self) -> Iterable[str]:
        """What of it is not known, for the notes of the estimate."""
        return ()


@dataclass(frozen=True, slots=True)
class Rule:
    """Something that a device does otherwise than PyTorch's fake kernels say.

    Attributes:
        name: of the function, and of its test.
        kind: what it changes.
        subjects: ops such as ``"aten::dropout"`` (``"aten::pow.Tensor_Scalar"`` with its overload), names of autograd nodes or
            of other functions; empty: any.
        on: devices on which it holds.
        when: further conditions, in words.
        source: where it can be checked.
        function: see ``kind``.
    """

    name: str
    kind: Kind
    subjects: tuple[str, ...]
    on: tuple[Device, ...]
    when: str
    source: str
    function: Callable[..., Any]

    def ops(self) -> Sequence[Any]:
        """The ops of its subjects that this PyTorch has."""
        return [op for op in map(overload, self.subjects) if op is not None]


RULES: Final[dict[str, Rule]] = {}
"""Every rule of the files that were imported, by name. `all_rules` imports them all."""

Function = TypeVar("Function", bound=Callable[..., Any])


def rule(kind: Kind, *subjects: str, on: Device | tuple[Device, ...], when: str, source: str) -> Callable[[Function], Function]:
    """Register a function, or a class of `Workspaces` or `TargetKernel`, as a rule of its name. See `Rule` for arguments."""

    def register(function: Function) -> Function:
        devices: tuple[Device, ...] = on if isinstance(on, tuple) else (on,)
        other = RULES.get(function.__name__)
        assert other is None or other.function.__module__ == function.__module__, f"two rules are named {function.__name__}"
        RULES[function.__name__] = Rule(function.__name__, kind, subjects, devices, when, source, function)
        return function

    return register


def all_rules() -> list[Rule]:
    """The rules of every file in this folder."""
    _import_files()
    return list(RULES.values())


@cache
def _import_files() -> None:
    from torchprof.estimation import rules

    for found in pkgutil.iter_modules(rules.__path__):
        importlib.import_module(f"{rules.__name__}.{found.name}")


def overload(name: str) -> Any:
    """The op with a name such as ``"aten::pow.Tensor_Scalar"``; None where this PyTorch has none."""
    namespace, _, rest = name.partition("::")
    packet, _, overload = rest.partition(".")
    return getattr(getattr(getattr(torch.ops, namespace), packet, None), overload or "default", None)
