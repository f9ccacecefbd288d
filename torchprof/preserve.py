"""Run a model and leave no trace in it: everything a forward pass changes by itself is put back.

That is: the random number generators of torch (every device in use), numpy and Python; the contents and version counters of
buffers, such as BatchNorm's statistics; the attributes of modules, train/eval modes among them. Gradients are never
accumulated in the first place. Parameters are not copied, as they may be as large as the machine's memory: one that forward
changes in place is reported.
"""

from __future__ import annotations

import random
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

__all__ = ["preserved"]

_MODULE_DICTS = ("_parameters", "_buffers", "_modules")


@contextmanager
def preserved(model: nn.Module) -> Iterator[None]:
    """Everything that running ``model`` inside the block changes is as before when the block ends, also by an exception."""
    states = _random_states(model)
    modules = [(module, dict(module.__dict__)) for module in model.modules() if hasattr(module, "__dict__")]
    registries = [(module.__dict__[name], dict(module.__dict__[name])) for module, _ in modules for name in _MODULE_DICTS
                  if isinstance(module.__dict__.get(name), dict)]
    buffers = [(buffer, buffer.detach().clone(), buffer._version) for buffer in _real(model.buffers())]
    parameters = [(name, parameter, parameter._version) for name, parameter in model.named_parameters()]
    try:
        yield
    finally:
        for restore, state in states:
            restore(state)
        for module, attributes in modules:
            _restore_dict(module.__dict__, attributes)
        for registry, members in registries:
            _restore_dict(registry, members)
        for buffer, contents, version in buffers:
            # Through .data, and with the version put back: a graph of the user's that saved this buffer is still valid.
            buffer.data.copy_(contents)
            torch._C._autograd._unsafe_set_version_counter((buffer,), (version,))
        changed = [name for name, parameter, version in parameters if parameter._version != version]
        if changed:
            warnings.warn(
                f"forward changed {len(changed)} parameter(s) of the model in place ({', '.join(changed[:3])}): torchprof does "
                "not copy parameters, so these stay changed",
                stacklevel=4,
            )


def _real(tensors: Iterator[torch.Tensor]) -> Iterator[torch.Tensor]:
    """Tensors that have contents."""
    return (
        tensor
        for tensor in tensors
        if tensor.device.type != "meta" and not isinstance(tensor, nn.parameter.UninitializedTensorMixin)
    )


def _restore_dict(current: dict[str, Any], before: dict[str, Any]) -> None:
    if len(current) == len(before) and all(current.get(key, before) is value for key, value in before.items()):
        return
    current.clear()  # and refilled: the order of attributes and of submodules is state as well
    current.update(before)


def _random_states(model: nn.Module) -> list[tuple[Any, Any]]:
    states: list[tuple[Any, Any]] = [
        (torch.set_rng_state, torch.get_rng_state()),
        (random.setstate, random.getstate()),
    ]
    if "numpy.random" in sys.modules:
        import numpy as np

        states.append((np.random.set_state, np.random.get_state()))
    if torch.cuda.is_initialized():
        states.append((torch.cuda.set_rng_state_all, torch.cuda.get_rng_state_all()))
    return states
