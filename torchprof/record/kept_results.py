"""Results of a pass that its model keeps, such as ``self.last = y``: what autograd keeps lives on with them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import nn

from torchprof import _native
from torchprof.record.nested import find_tensors
from torchprof.record.seeds import storage_bytes

__all__ = ["Taken", "names_of_kept", "saved_bytes", "take_kept"]


class Taken(NamedTuple):
    """A result that a module kept: the same elements without their graph, and who held them before."""

    tensor: torch.Tensor
    held: int
    held_elements: int


def take_kept(model: nn.Module) -> list[Taken]:
    """Leave to the model the elements of the results that it keeps, and let go of their graph.

    The model must be put back afterwards, as `torchprof.record.preserve.preserved` does.
    """
    taken = []
    with torch._C.DisableTorchFunctionSubclass():
        for _, attributes, name, value in _attributes(model):
            if type(value) is torch.Tensor and value.grad_fn is not None:
                held, held_elements = _native.use_counts(value)[:2]
                attributes[name] = value.detach().requires_grad_(value.requires_grad)
                taken.append(Taken(attributes[name], held, held_elements))
    return taken


def saved_bytes(taken: list[Taken]) -> int | None:
    """Bytes of those that the graph had saved as well, now that it is gone; None where they are unknown."""
    total: int | None = 0
    for tensor, held, held_elements in taken:
        # The model held it once, and its elements are held by what took its place.
        if held > 1 or held_elements + 1 - _native.use_counts(tensor)[1] > 1:
            size = storage_bytes(tensor)
            total = None if size is None or total is None else total + size
    return total


def names_of_kept(model: nn.Module) -> list[str]:
    """The names of attributes in which modules keep results, such as ``encoder.last``."""
    with torch._C.DisableTorchFunctionSubclass():
        names = [
            path
            for path, _, _, value in _attributes(model)
            if any(tensor.grad_fn is not None for tensor in find_tensors(value))
        ]
    return list(dict.fromkeys(names))


def _attributes(model: nn.Module) -> Iterator[tuple[str, dict[str, Any], str, Any]]:
    """The path of every attribute that is no module or parameter, and where it is held."""
    for path, module in model.named_modules():
        for attributes in (vars(module), module._buffers):
            for name, value in list(attributes.items()):
                if name not in ("_parameters", "_buffers", "_modules"):
                    yield f"{path}.{name}" if path else name, attributes, name, value
