"""Finds tensors inside whatever models take and return.

Containers and the attributes of objects are read where they lie in memory, by ``csrc/record/find_tensors.cpp``, as recordings
do: no property, iterator or ``__getattr__`` of the program is run.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from torchprof import _native

__all__ = ["Found", "find_tensors", "tensor_bytes", "tensor_sizes", "tensors_in"]


class Found(NamedTuple):
    """What is inside of an object.

    Attributes:
        tensors: those in containers, in order and as often as they occur; then those in objects that are no containers, each
            once.
        unread: classes of what may hold tensors and cannot be looked into, such as a generator.
        in_containers: how many of the tensors are in containers.
    """

    tensors: list[torch.Tensor]
    unread: list[str]
    in_containers: int


def tensors_in(value: Any) -> Found:
    """Every tensor in tuples, lists, sets, mappings, dataclasses and in the attributes of other objects."""
    return Found(*_native.tensors_in(value))


def find_tensors(value: Any) -> list[torch.Tensor]:
    """The same, where what cannot be looked into does not matter."""
    return tensors_in(value).tensors


def tensor_sizes(tensor: torch.Tensor) -> list[int]:
    """The sizes of any tensor as a trace holds them: ``RAGGED`` and ``UNKNOWN`` of ``torchprof.trace.schema`` are none."""
    return _native.sizes_and_bytes(tensor)[0]


def tensor_bytes(tensor: torch.Tensor) -> int | None:
    """What the elements of any tensor take; None where that is unknown."""
    found = _native.sizes_and_bytes(tensor)[1]
    return found if found >= 0 else None
