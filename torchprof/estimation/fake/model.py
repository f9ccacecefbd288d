"""Fake copies: of models, and of tensors."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from torchprof.errors import ArgumentError, ModuleTypeError
from torchprof.record.changed_copies import with_tensors
from torchprof.record.modules import is_lazy, walk

__all__ = ["Faking", "built", "fake_model"]


def built(model: nn.Module | Callable[[], nn.Module]) -> nn.Module:
    """The model, or what a function builds on ``meta``: parameters without memory.

    Raises:
        ModuleTypeError: it is no module and builds none.
    """
    if isinstance(model, nn.Module):
        return model
    if not callable(model):
        raise ModuleTypeError(f"model must be a torch.nn.Module or a function that builds one, not {type(model).__name__}")
    if isinstance(model, type) and issubclass(model, nn.Module):
        raise ModuleTypeError(f"model is the class {model.__name__}: pass one of it, or lambda: {model.__name__}(...)")
    with torch.device("meta"):
        made = model()
    if not isinstance(made, nn.Module):
        raise ModuleTypeError(f"model() must return a torch.nn.Module, not {type(made).__name__}: {made!r:.80}")
    return made


def fake_model(model: nn.Module, mode: Any) -> nn.Module:
    """A copy of a model with fake parameters and buffers on the CPU, and other tensors that its modules keep.

    Raises:
        ArgumentError: the model is lazy: its parameters have no shape yet; or it cannot be copied.
    """
    if type(model).__name__ == "OptimizedModule":
        model = model._orig_mod  # type: ignore[assignment]  # a compiler would keep examples of its own
    places = walk(model)
    if is_lazy(places):
        raise ArgumentError(
            "model is lazy: its parameters have no shape before a first call. Run it once, on meta tensors for example"
        )
    faking = Faking(mode)
    kept = [value for place in places for value in vars(place.module).values() if isinstance(value, torch.Tensor)]
    memo: dict[int, Any] = {id(tensor): faking.tensor(tensor) for tensor in (*model.parameters(), *model.buffers(), *kept)}
    try:
        return copy.deepcopy(model, memo)
    except Exception as error:
        raise ArgumentError(
            f"model cannot be copied ({type(error).__name__}: {error}): pass a function that builds it instead"
        ) from error


class Faking:
    """Makes fake tensors on the CPU for real ones of any device.

    The same tensor gives the same fake one, and tensors that share a storage share a fake one.
    """

    def __init__(self, mode: Any) -> None:
        self._mode = mode
        self._tensors: dict[int, torch.Tensor] = {}
        self._storages: dict[int, torch.Tensor] = {}

    def tensor(self, real: torch.Tensor) -> torch.Tensor:
        """The fake tensor for one.

        Raises:
            ArgumentError: it is sparse, nested, or of another kind that has no strides.
        """
        if id(real) not in self._tensors:
            with self._mode:
                try:
                    fake = self._like(real)
                except (RuntimeError, TypeError, ValueError, AttributeError) as error:  # NotImplementedError is the first
                    raise ArgumentError(
                        f"a tensor of the model or of inputs cannot be estimated: "
                        f"{'nested ' if real.is_nested else ''}{type(real).__name__} of dtype {real.dtype} "
                        f"and layout {real.layout}: only tensors with strides can ({str(error).splitlines()[0]})"
                    ) from error
                if isinstance(real, nn.Parameter):
                    fake = nn.Parameter(fake, requires_grad=real.requires_grad)
                else:
                    fake.requires_grad_(real.requires_grad)
            self._tensors[id(real)] = fake
        return self._tensors[id(real)]

    def values(self, value: Any) -> Any:
        """The same value with a fake tensor in place of every tensor in it."""
        return with_tensors(value, self.tensor)

    def _like(self, real: torch.Tensor) -> torch.Tensor:
        shape, stride = real.shape, real.stride()
        storage = real.untyped_storage()
        if storage.nbytes() == real.numel() * real.itemsize and storage._cdata not in self._storages:
            self._storages[storage._cdata] = fake = torch.empty_strided(shape, stride, dtype=real.dtype, device="cpu")
            return fake
        base = self._storages.get(storage._cdata)
        if base is None or base.dtype != real.dtype:
            base = torch.empty(storage.nbytes() // real.itemsize, dtype=real.dtype, device="cpu")
            self._storages[storage._cdata] = base
        return base.detach().as_strided(shape, stride, real.storage_offset())
