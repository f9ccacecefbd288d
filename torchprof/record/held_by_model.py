"""The tensors that a model holds, for the recorder: it tells their memory from that of activations."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from torchprof import _native
from torchprof.record.modules import Models, has_no_shape, tensors_of, walk
from torchprof.record.packed import is_packing, packed_parameters
from torchprof.record.shards import sharded
from torchprof.trace.schema import Use

__all__ = ["Held", "held_by"]


class Held(NamedTuple):
    """The storage of a parameter, gradient or buffer.

    Attributes:
        address, bytes: of the storage.
        module, type: ``id()`` of the module that holds it, and the name of its class.
        use: a `Use`.
        device_type, device_index: as in the tables of a trace.
        at_end: whether this is what the model held when the recording ended, and not when it began.
    """

    address: int
    bytes: int
    module: int
    type: str
    use: int
    device_type: int
    device_index: int
    at_end: bool


def held_by(models: Models, *, at_end: bool, follow: bool = True) -> list[Held]:
    """The parameters, gradients and buffers that a model, or several, hold now; each once.

    Args:
        models: the model, or models by name.
        at_end: whether the recording has ended, and not begins.
        follow: whether the recording that begins shall see when these are freed.
    """
    held: list[Held] = []
    seen: set[int] = set()

    def add(tensor: torch.Tensor | None, module: nn.Module, use: Use) -> None:
        if tensor is None or id(tensor) in seen or has_no_shape(tensor):
            return
        seen.add(id(tensor))
        how, type_name = int(use | sharded(tensor)), type(module).__name__
        for address, count, device_type, device_index in _native.storages(tensor, follow=follow and not at_end):
            held.append(Held(address, count, id(module), type_name, how, device_type, device_index, at_end))

    for place in walk(models):
        if place.same_as < 0:
            for parameter in tensors_of([place.module], "_parameters"):
                add(parameter, place.module, Use.PARAMETER)
                add(parameter.grad, place.module, Use.GRADIENT)
            for buffer in tensors_of([place.module], "_buffers"):
                add(buffer, place.module, Use.BUFFER)
            if not at_end and is_packing(type(place.module)):  # unpacking runs ops, which a recording would show
                for _, tensor in packed_parameters(place.module) or ():
                    if _native.use_counts(tensor)[1] > 1:  # the rest are copies
                        add(tensor, place.module, Use.PARAMETER)
    return held
