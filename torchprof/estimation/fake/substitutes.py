"""Fake tensors in place of those of a model, which itself runs: it is not copied, and nothing it holds is touched."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import nn

from torchprof.estimation.fake.model import Faking
from torchprof.record.modules import has_no_shape
from torchprof.record.nested import find_tensors

__all__ = ["substituted"]

CONTAINERS: Final = frozenset({list, tuple, dict, OrderedDict})
REGISTRIES: Final = ("_parameters", "_buffers")


@contextmanager
def substituted(modules: Iterable[nn.Module], faking: Faking) -> Iterator[None]:
    """Parameters, buffers and attributes that are tensors, or lists and dicts of them, are fake until the block ends.

    Afterwards everything stands where it stood, whatever happened meanwhile.

    Raises:
        ArgumentError: some tensor has no strides.
    """
    containers: dict[int, Any] = {}  # a list that two modules hold stays one
    before: list[tuple[dict[str, Any], dict[str, Any]]] = []

    def replace(holder: dict[str, Any]) -> None:
        fakes = {
            name: fake
            for name, value in holder.items()
            if name not in REGISTRIES and (fake := _fake(value, faking, containers)) is not None
        }
        if fakes:
            before.append((holder, holder.copy()))
            holder.update(fakes)

    try:
        # Outside of inference mode, in which no tensor made could be saved for backward: a parameter was made before.
        with torch.inference_mode(False):
            for module in modules:
                attributes = module.__dict__
                for registry in REGISTRIES:
                    held = attributes.get(registry)
                    if isinstance(held, dict):  # ScriptModules have an object of another type
                        replace(held)
                replace(attributes)
        yield
    finally:
        for holder, own in before:
            holder.clear()  # the order is state too
            holder.update(own)


def _fake(value: Any, faking: Faking, containers: dict[int, Any]) -> Any:
    """The fake tensor for a tensor, a container of fake ones for one of tensors, and None for everything else."""
    kind = type(value)
    if issubclass(kind, torch.Tensor):
        return None if has_no_shape(value) else faking.tensor(value)
    if kind not in CONTAINERS or not value or not find_tensors(value):
        return None
    if id(value) not in containers:
        containers[id(value)] = faking.values(value)
    return containers[id(value)]
