"""Ops of PyTorch's own that have no fake kernel.

PyTorch runs these for real, on zeros of the full size: a product of a large model then takes minutes and GiB. Here, an op that
writes into tensors it is given (``out=``) returns what its functional overload does, and another runs for real only on little.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, Final

import torch

from torchprof.record.nested import find_tensors

__all__ = ["LITTLE", "functional_of", "is_little", "without_out", "written_into"]

LITTLE: Final = 2**27
"""Elements of all tensors that are given to an op, up to which it may run for real: half a second for most."""


@cache
def functional_of(op: Any) -> Any | None:
    """The overload that returns what this one writes into the tensors it is given for that; None where there is none."""
    wanted = [_signature(argument) for argument in op._schema.arguments if not _is_written(argument)]
    if len(wanted) == len(op._schema.arguments):
        return None
    packet = op.overloadpacket
    for name in packet.overloads():
        other = getattr(packet, name)
        if [_signature(argument) for argument in other._schema.arguments] == wanted and not other._schema.is_mutable:
            return other
    return None


def without_out(op: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
    """What is given to the functional overload."""
    written = _written(op)
    return {name: value for name, value in kwargs.items() if name not in written}


def written_into(op: Any, kwargs: dict[str, Any], results: Any) -> Any:
    """Give the tensors of ``out=`` the shapes of the results, as the op would, and return them as it does."""
    given = [kwargs[name] for name in _written(op)]
    made: Sequence[torch.Tensor] = find_tensors(results)
    for tensor, result in zip(find_tensors(given), made, strict=True):
        if tensor.shape != result.shape:
            tensor.resize_(result.shape)
    return given[0] if len(given) == 1 else tuple(given)


def _written(op: Any) -> list[str]:
    return [argument.name for argument in op._schema.arguments if _is_written(argument)]


def is_little(*values: Any) -> bool:
    """Whether the tensors in these have few elements."""
    return sum(tensor.numel() for tensor in find_tensors(values)) <= LITTLE


def _is_written(argument: Any) -> bool:
    return bool(argument.kwarg_only and argument.alias_info is not None and argument.alias_info.is_write)


def _signature(argument: Any) -> tuple[str, str]:
    return argument.name, str(argument.type)
