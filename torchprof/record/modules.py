"""Walks the modules of a model and describes them for the trace."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple

import torch
from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from torchprof import _native
from torchprof.errors import ModuleTypeError
from torchprof.record.definitions import definition_of
from torchprof.record.nested import tensor_bytes, tensor_sizes
from torchprof.record.opaque import COMPILED_ATTRIBUTES, is_opaque, opaque_because
from torchprof.record.packed import PACKED_ATTRIBUTES, bytes_of_quantized, is_packing, packed_parameters
from torchprof.trace.model import UNKNOWN, Model, ModuleInfo, TensorInfo
from torchprof.trace.shapes import numel, shape_of

__all__ = ["Models", "WalkedModule", "check_models", "describe", "has_no_shape", "is_lazy", "tensors_of", "walk"]


class WalkedModule(NamedTuple):
    """One place in the module tree. A module that is registered at several places has several.

    Attributes:
        module: the module.
        path: dotted name, as ``named_modules`` gives it.
        name: last part of the path.
        parent: index of the place of the parent; -1 for the root.
        depth: 0 for the root.
        same_as: index of the first place of this module; -1 if this is it.
    """

    module: nn.Module
    path: str
    name: str
    parent: int
    depth: int
    same_as: int


Models = nn.Module | Mapping[str, nn.Module]
"""One model, or several by name."""


def check_models(model: Any) -> Models | None:
    """The argument ``model`` of `torchprof.profile`: a list becomes a dict by position.

    Raises:
        ModuleTypeError: it is not a module, a list or dict of modules, or None.
    """
    if model is None or isinstance(model, nn.Module):
        return model
    named = model if isinstance(model, Mapping) else dict(enumerate(model)) if isinstance(model, list | tuple) else {}
    if not named or not all(isinstance(each, nn.Module) for each in named.values()):
        raise ModuleTypeError(
            f"model must be a torch.nn.Module, a list or dict of them, or None, not {type(model).__name__}: {model!r:.80}"
        )
    return {str(name): each for name, each in named.items()}


def walk(models: Models) -> _native.Places:
    """Every place of every module, parents before children; for Python, each is a `WalkedModule`.

    The children of a module are listed at its first place only.
    """
    roots = [("", models)] if isinstance(models, nn.Module) else list(models.items())
    return _native.walk(roots, WalkedModule)


def tensors_of(modules: Iterable[nn.Module], registry: str) -> Iterator[torch.Tensor]:
    """The tensors in ``_parameters`` or ``_buffers`` of these modules, without those of their children."""
    for module in modules:
        for tensor in getattr(module, registry).values():
            if tensor is not None:
                yield tensor


def has_no_shape(tensor: torch.Tensor) -> bool:
    """Whether this is a parameter or buffer of a lazy module that has not been called."""
    # isinstance would call the metaclass of nn.Parameter, which is written in Python and slow.
    return issubclass(type(tensor), (UninitializedParameter, UninitializedBuffer))


def is_lazy(places: Iterable[WalkedModule]) -> bool:
    """Whether some parameter or buffer has no shape before the first call."""
    return any(isinstance(place.module, LazyModuleMixin) and place.module.has_uninitialized_params() for place in places)


def describe(models: Models, places: _native.Places | None = None) -> Model:
    """Read the module tree of one model or of several. Runs nothing, and works with ``meta`` and lazy models.

    Args:
        models: what to describe.
        places: what ``walk(models)`` returned, if it was called already.
    """
    owners: dict[int, str] = {}
    unpacked: list[Any] = []  # kept, because owners are known by the id() of tensors

    def tensors(path: str, members: Iterable[tuple[str, torch.Tensor | None]]) -> tuple[TensorInfo, ...]:
        infos = []
        for name, tensor in members:
            if tensor is not None:
                owner = owners.setdefault(id(tensor), path)
                infos.append(_tensor_info(name, tensor, None if owner is path else owner))
        return tuple(infos)

    def read_module(path: str, module: Any) -> tuple[str, str, tuple[TensorInfo, ...], tuple[TensorInfo, ...]]:
        """Class, reason why calls inside are not seen, parameters and buffers of a module that is not like others."""
        kind = type(module)
        name, opaque = kind.__name__, opaque_because(module)
        if opaque == "TorchScript":
            name = getattr(module, "original_name", name)
        parameters = tensors(path, module.named_parameters(recurse=False))
        buffers = tensors(path, module.named_buffers(recurse=False))
        if not parameters and opaque != "TorchScript":
            packed = packed_parameters(module)
            parameters = UNREADABLE if packed is None else tensors(path, packed)
            unpacked.append(packed)
        return name, opaque, parameters, buffers

    return Model(
        _native.describe(
            walk(models) if places is None else places,
            module_info=ModuleInfo,
            tensor_info=TensorInfo,
            read_class=_read_class,
            read_module=read_module,
            read_tensor=_tensor_info,
            special=SPECIAL,
            attributes=ATTRIBUTES,
            owners=owners,
            parameter=nn.Parameter,
        )
    )


ATTRIBUTES: Final = ("training", "kernel_size")
"""The last fields of a ModuleInfo."""
SPECIAL: Final = (*PACKED_ATTRIBUTES, *COMPILED_ATTRIBUTES)
"""Attributes that make a module special where they are its own, and not those of its class."""

UNREADABLE: Final = (TensorInfo("packed parameters", (), UNKNOWN, UNKNOWN, 0, 0, False),)
"""In place of what is in a packed object that cannot be read."""


def _read_class(kind: type[nn.Module]) -> tuple[str, bool, bool, str | None]:
    """What all modules of a class have in common: name, whether it is a container, whether they are special, where it is."""
    opaque = is_opaque(kind)
    defined = None if opaque else definition_of(kind)
    return kind.__name__, issubclass(kind, nn.Sequential | nn.ModuleList), opaque or is_packing(kind), defined


def _tensor_info(name: str, tensor: torch.Tensor, owner: str | None) -> TensorInfo:
    dtype, device = str(tensor.dtype).removeprefix("torch."), str(tensor.device)
    if has_no_shape(tensor):
        return TensorInfo(name, (), dtype, device, 0, 0, tensor.requires_grad, owner, lazy=True)
    shape, size = shape_of(tensor_sizes(tensor)), bytes_of_quantized(tensor) if tensor.is_quantized else tensor_bytes(tensor)
    elements = numel(shape)
    if elements is None:  # nested
        elements = (size or 0) // tensor.itemsize
    if size is None:
        size = elements * tensor.itemsize
    return TensorInfo(name, shape, dtype, device, elements, size, tensor.requires_grad, owner)
