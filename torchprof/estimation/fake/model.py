"""Fake copies: of models, and of tensors."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Final

import torch
from torch import nn

from torchprof.errors import ArgumentError, EstimateError, ModuleTypeError
from torchprof.estimation.fake.closures import rebind
from torchprof.estimation.fake.meta_build import on_meta
from torchprof.estimation.torch_private import ESTIMATE
from torchprof.record.changed_copies import with_tensors
from torchprof.record.modules import is_lazy, walk
from torchprof.record.opaque import opaque_because

__all__ = ["Faking", "built", "fake_model"]

FakeTensor = ESTIMATE.FakeTensor
DisableTorchDispatch = ESTIMATE.DisableTorchDispatch
CPU: Final = torch.device("cpu")


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
    with on_meta():
        made = model()
    if not isinstance(made, nn.Module):
        raise ModuleTypeError(f"model() must return a torch.nn.Module, not {type(made).__name__}: {made!r:.80}")
    return made


def fake_model(model: nn.Module, mode: Any) -> nn.Module:
    """A copy of a model with fake parameters and buffers on the CPU, and other tensors that its modules keep.

    Raises:
        ArgumentError: the model is lazy: its parameters have no shape yet; or it cannot be copied.
        EstimateError: a module is TorchScript.
    """
    if type(model).__name__ == "OptimizedModule":
        model = model._orig_mod  # type: ignore[assignment]  # a compiler would keep examples of its own
    places = walk(model)
    if is_lazy(places):
        raise ArgumentError(
            "model is lazy: its parameters have no shape before a first call. Run it once, on meta tensors for example"
        )
    if scripted := [place for place in places if opaque_because(place.module) == "TorchScript"]:
        raise EstimateError(
            f"{scripted[0].path or 'the model'} is TorchScript: no fake parameters can take the place of its own. Pass the "
            "module that it was made from"
        )
    faking = Faking(mode)
    kept = [value for place in places for value in vars(place.module).values()]
    tensors = [*model.parameters(), *model.buffers(), *(value for value in kept if isinstance(value, torch.Tensor))]
    memo: dict[int, Any] = {id(tensor): faking.tensor(tensor) for tensor in tensors}
    memo.update({id(value): value for value in kept if isinstance(value, torch.jit.ScriptFunction)})
    try:
        copied = copy.deepcopy(model, memo)
        rebind(copied.modules(), memo)
        return copied
    except Exception as error:
        raise ArgumentError(
            f"model cannot be copied ({type(error).__name__}: {error}): pass a function that builds it instead; where ranks "
            "share it, one that wraps and shards it too, with world_size="
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
        fake = self._tensors.get(id(real))
        if fake is None:
            try:
                sized = _sized(real)
                fake = self._whole(sized)
                if fake is None:
                    fake = self._part(sized)
            except (RuntimeError, TypeError, ValueError, AttributeError) as error:  # NotImplementedError is the first
                raise ArgumentError(
                    f"a tensor of the model or of inputs cannot be estimated: {'nested ' if real.is_nested else ''}"
                    f"{type(real).__name__} of dtype {real.dtype} and layout {real.layout}: "
                    f"only tensors with strides can ({str(error).splitlines()[0]})"
                ) from error
            self._tensors[id(real)] = fake
        return fake

    def values(self, value: Any) -> Any:
        """The same value with a fake tensor in place of every tensor in it."""
        return with_tensors(value, self.tensor)

    def _whole(self, real: torch.Tensor) -> torch.Tensor | None:
        """The fake tensor for one that is all of its storage, and the first to be seen of it. There may be thousands."""
        storage = real.untyped_storage()
        if storage.nbytes() != real.numel() * real.itemsize or storage._cdata in self._storages:
            return None
        no_modes = DisableTorchDispatch()
        try:
            made = torch.empty_strided(
                real.shape, real.stride(), dtype=real.dtype, device="meta", requires_grad=real.requires_grad
            )
            fake: Any = FakeTensor(self._mode, made, CPU)
        finally:
            del no_modes  # the guard ends with the object
        if isinstance(real, nn.Parameter):
            fake._is_param = True
        self._storages[storage._cdata] = fake
        return fake  # type: ignore[no-any-return]

    def _part(self, real: torch.Tensor) -> torch.Tensor:
        storage = real.untyped_storage()
        with self._mode:
            base = self._storages.get(storage._cdata)
            if base is None or base.dtype != real.dtype:
                base = torch.empty(storage.nbytes() // real.itemsize, dtype=real.dtype, device="cpu")
                self._storages[storage._cdata] = base
            fake = base.detach().as_strided(real.shape, real.stride(), real.storage_offset())
            if isinstance(real, nn.Parameter):
                return nn.Parameter(fake, requires_grad=real.requires_grad)
            return fake.requires_grad_(real.requires_grad)


def _sized(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor, or where its sizes are symbols, one on ``meta`` of the sizes that it was traced with: no guard is added."""
    if not getattr(tensor, "_has_symbolic_sizes_strides", False):
        return tensor
    sizes, strides = (tuple(map(_hint, numbers)) for numbers in (tensor.shape, tensor.stride()))
    no_modes = DisableTorchDispatch()
    try:
        made = torch.empty_strided(sizes, strides, dtype=tensor.dtype, device="meta", requires_grad=tensor.requires_grad)
    finally:
        del no_modes
    return nn.Parameter(made, made.requires_grad) if isinstance(tensor, nn.Parameter) else made


def _hint(number: Any) -> int:
    hint = number if isinstance(number, int) else number.node.hint
    if hint is None:
        raise ValueError(f"the size {number} is not known")
    return int(hint)
