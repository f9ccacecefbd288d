"""What autocast does to the arguments of an op on a device: found by calling it with tensors that are nothing but a dtype.

Every build of PyTorch registers autocast for CPU and CUDA. A probe is a tensor without memory that says it is on the device. It
notes what it is cast to, or which op runs, and ends the call. So the lists are those of the PyTorch that is there.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import Enum, auto
from functools import cache
from itertools import chain, repeat
from typing import Any, Final, NamedTuple

import torch

from torchprof.estimation.torch_private import AUTOCAST_RULE, ESTIMATE

__all__ = ["Policy", "Treatment", "treatments"]

HALF: Final = torch.float16
"""The dtype that autocast is set to. Of the two, the one that softmax on CUDA does not convert by itself."""
OTHER_HALF: Final = torch.bfloat16
"""One that autocast casts whatever it casts to."""
TO_COPY: Final = torch.ops.aten._to_copy.default


class Policy(Enum):
    """What is done to the arguments of an op."""

    NONE = auto()
    LOWER = auto()
    """Floats are cast to the dtype of autocast."""
    FLOAT32 = auto()
    """Floats are cast to float32."""
    FLOAT32_RESULT = auto()
    """The result is of float32, if no ``dtype`` is given: that argument is set, and nothing is cast."""
    WIDEST = auto()
    """Floats are cast to the widest dtype among them."""
    REFUSED = auto()
    """It raises."""


class Treatment(NamedTuple):
    """What autocast does to an op.

    Attributes:
        policy: what is done to its arguments.
        runs: the op that runs then: the same, or its overload with a ``dtype``.
        error: what is raised.
    """

    policy: Policy
    runs: Any
    error: str = ""


@cache
def treatments(device: str) -> dict[Any, Treatment]:
    """The ops that autocast of ``"cpu"`` or ``"cuda"`` knows."""
    with ESTIMATE.disable_modes(), warnings.catch_warnings(), _autocast(device):
        warnings.simplefilter("ignore")
        found = {}
        for name in AUTOCAST_RULE.registered_for(f"Autocast{device.upper()}"):
            namespace, _, rest = name.partition("::")
            packet, _, overload = rest.partition(".")
            op = getattr(getattr(getattr(torch.ops, namespace), packet), overload or "default")
            found[op] = _treatment(op, device)
        return found


def _treatment(op: Any, device: str) -> Treatment:
    other = _Seen.of(op, device, OTHER_HALF, OTHER_HALF)
    if other.cast is HALF:
        return Treatment(Policy.LOWER, op)
    if other.cast is torch.float32 and not (_takes_dtype(op) and _Seen.of(op, device, HALF, HALF).cast is None):
        return Treatment(Policy.FLOAT32, op)
    if "unsafe to autocast" in other.error:
        return Treatment(Policy.REFUSED, op, other.error)
    if _Seen.of(op, device, HALF, torch.float32).cast is not None:
        return Treatment(Policy.WIDEST, op)
    half = _Seen.of(op, device, HALF, HALF)
    if half.runs is not None and half.runs._schema.name == op._schema.name and _takes_dtype(half.runs):
        return Treatment(Policy.FLOAT32_RESULT, half.runs)
    return Treatment(Policy.FLOAT32_RESULT if _takes_dtype(op) else Policy.NONE, op)


def _takes_dtype(op: Any) -> bool:
    return any(argument.name == "dtype" for argument in op._schema.arguments)


@contextmanager
def _autocast(device: str) -> Iterator[None]:
    """Not by ``torch.autocast``, which does nothing where there is no GPU."""
    enabled, dtype = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
    try:
        torch.set_autocast_dtype(device, HALF)
        torch.set_autocast_enabled(device, True)
        yield
    finally:
        torch.set_autocast_enabled(device, enabled)
        torch.set_autocast_dtype(device, dtype)


class _Ran(Exception):
    """What there is to see was seen: a cast, or else the op that runs."""


class _Seen:
    """What a call showed.

    Attributes:
        cast: the dtype that an argument was cast to; None: none was.
        runs: the op that ran first.
        error: what was raised in place of it.
    """

    def __init__(self) -> None:
        self.cast: torch.dtype | None = None
        self.runs: Any = None
        self.error = ""

    @classmethod
    def of(cls, op: Any, device: str, dtype: torch.dtype, last: torch.dtype) -> _Seen:
        """Call an op with probes of a dtype, the last of which is of another."""
        seen = cls()
        arguments = op._schema.arguments
        count = sum(1 + ("List" in str(argument.type)) for argument in arguments if "Tensor" in str(argument.type))
        dtypes = chain(repeat(dtype, count - 1), repeat(last))
        values = {argument.name: _value(argument, lambda: _Probe(seen, next(dtypes), device)) for argument in arguments}
        positional = [values.pop(argument.name) for argument in arguments if not argument.kwarg_only]
        with suppress(_Ran):
            try:
                op(*positional, **values)
            except (RuntimeError, IndexError, TypeError, ValueError) as error:  # the shape is not one that the op takes
                seen.error = str(error)
        return seen


class _Probe(torch.Tensor):
    """A tensor that is nothing but a dtype on a device."""

    seen: _Seen

    @staticmethod
    def __new__(cls, seen: _Seen, dtype: torch.dtype, device: str) -> _Probe:
        # With its number: where there is a GPU, a tensor on "cuda" is converted to be on "cuda:0", which looks like a cast.
        on = torch.device(device, 0) if device == "cuda" else torch.device(device)
        made: _Probe = AUTOCAST_RULE.make_wrapper(cls, (1, 1), dtype=dtype, device=on)
        made.seen = seen
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        probe = next(value for value in _flat(args) if isinstance(value, _Probe))
        if func is TO_COPY:
            probe.seen.cast = kwargs["dtype"]
        probe.seen.runs = func
        raise _Ran


def _flat(values: Any) -> Iterator[Any]:
    for value in values:
        yield from _flat(value) if isinstance(value, list | tuple) else (value,)


def _value(argument: Any, probe: Any) -> Any:
    """Something that an argument may be."""
    kind = str(argument.type)
    if "Tensor" in kind:
        return [probe(), probe()] if "List" in kind else probe()
    if argument.has_default_value():
        return argument.default_value
    plain: dict[str, Any] = {"int": 1, "number": 1, "float": 1.0, "bool": False, "str": "fro", "List[int]": [1, 1]}
    return plain.get(kind)
