"""Restores what a forward pass changes in a model and in the process.

Restored are the random number generators of torch (of every device in use), numpy and Python; the contents and version
counters of buffers, such as the statistics of BatchNorm; and the attributes of modules, such as train/eval mode. Parameters are
not copied, because they may be as large as the memory of the machine: a warning names those that forward changes in place.
"""

from __future__ import annotations

import random
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from torchprof import _native
from torchprof.record import torch_private
from torchprof.record.modules import WalkedModule, has_no_shape, tensors_of

__all__ = ["preserved", "preserved_random_states", "random_states"]


@contextmanager
def preserved(model: nn.Module, places: Iterable[WalkedModule]) -> Iterator[None]:
    """Restore what running ``model`` inside the block changes, also where the block raises an exception.

    Args:
        model: the model.
        places: what ``walk(model)`` returned.
    """
    states = random_states()
    modules = [place.module for place in places if place.same_as < 0]
    dictionaries = [(current, current.copy()) for module in modules for current in _dictionaries(module)]
    buffers = [_Contents(buffer) for buffer in tensors_of(modules, "_buffers") if _has_contents(buffer)]
    versions = [(p, p._version) for p in tensors_of(modules, "_parameters") if not (has_no_shape(p) or p.is_inference())]
    try:
        yield
    finally:
        for restore, state in states:
            restore(state)
        for row in _native.changed(dictionaries):
            current, before = dictionaries[row]
            current.clear()  # the order of attributes and of submodules is state too
            current.update(before)
        lost = [str(error) for contents in buffers if (error := _attempt(contents.restore)) is not None]
        if lost:
            warnings.warn(f"{len(lost)} buffer(s) that forward changed could not be restored: {lost[0]}", stacklevel=4)
        changed = {id(parameter) for parameter, version in versions if parameter._version != version}
        if changed:
            names = [name for name, parameter in model.named_parameters() if id(parameter) in changed]
            warnings.warn(
                f"forward changed {len(names)} parameter(s) of the model in place ({', '.join(names[:3])}): torchprof does "
                "not copy parameters, so these stay changed",
                stacklevel=4,
            )


class _Contents:
    """A copy of a buffer: of its storage, because the buffer may be a view in which elements overlap."""

    __slots__ = ("buffer", "contents", "version")

    def __init__(self, buffer: torch.Tensor) -> None:
        self.buffer = buffer
        contents = buffer.untyped_storage() if _has_storage(buffer) else buffer.detach()
        self.contents: Any = contents.clone()
        self.version = None if buffer.is_inference() else buffer._version

    def restore(self) -> None:
        # Autograd does not see the copy, and the version counter is restored: a graph that saved this buffer stays valid.
        if isinstance(self.contents, torch.Tensor):
            self.buffer.data.copy_(self.contents)
        else:
            self.buffer.untyped_storage().copy_(self.contents)
        if self.version is not None:
            torch_private.set_version(self.buffer, self.version)


def _has_storage(tensor: torch.Tensor) -> bool:
    return tensor.layout == torch.strided and type(tensor) in (torch.Tensor, nn.Parameter)


def _attempt(action: Callable[[], None]) -> Exception | None:
    """Do it and return what it raised: one failure must not keep the rest from being restored, nor hide the model's error."""
    try:
        action()
    except Exception as error:
        return error
    return None


def _dictionaries(module: nn.Module) -> list[dict[str, Any]]:
    attributes = module.__dict__
    registries = [attributes.get("_parameters"), attributes.get("_buffers"), attributes.get("_modules")]
    return [attributes, *[registry for registry in registries if isinstance(registry, dict)]]


def _has_contents(tensor: torch.Tensor) -> bool:
    return tensor.device.type != "meta" and not has_no_shape(tensor)


@contextmanager
def preserved_random_states() -> Iterator[None]:
    """Every random number generator is as before when the block ends."""
    states = random_states()
    try:
        yield
    finally:
        for restore, state in states:
            restore(state)


def random_states() -> list[tuple[Any, Any]]:
    """The states of all random number generators, each with the function that sets it."""
    states: list[tuple[Any, Any]] = [
        (torch.set_rng_state, torch.get_rng_state()),
        (random.setstate, random.getstate()),
    ]
    if "numpy.random" in sys.modules:
        import numpy as np

        states.append((np.random.set_state, np.random.get_state()))
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        states.append((torch.cuda.set_rng_state_all, torch.cuda.get_rng_state_all()))
    return states
