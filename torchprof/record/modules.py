"""Walks the modules of a model and describes them for the trace."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from math import prod
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from torchprof.errors import ModuleTypeError
from torchprof.trace.model import Model, ModuleInfo, TensorInfo

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


def walk(models: Models) -> list[WalkedModule]:
    """Every place of every module, parents before children. The children of a module are listed at its first place only."""
    places: list[WalkedModule] = []
    first_place: dict[int, int] = {}

    def visit(module: nn.Module, path: str, name: str, parent: int, depth: int) -> None:
        row = len(places)
        known = first_place.setdefault(id(module), row)
        if known != row:
            places.append(WalkedModule(module, path, name, parent, depth, known))
            return
        places.append(WalkedModule(module, path, name, parent, depth, -1))
        # named_children() takes three times as long as the dictionary behind it. ScriptModules have an object of another type.
        children: Any = module._modules
        if children:
            below = f"{path}." if path else ""
            for child_name, child in children.items():
                if child is not None:
                    visit(child, below + child_name, child_name, row, depth + 1)

    if isinstance(models, nn.Module):
        visit(models, "", "", -1, 0)
    else:
        for name, model in models.items():
            visit(model, name, name, -1, 0)
    return places


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


def describe(models: Models) -> Model:
    """Read the module tree of one model or of several. Runs nothing, and works with ``meta`` and lazy models."""
    owners: dict[int, str] = {}
    names = _Names()

    def tensors(path: str, members: Iterable[tuple[str, torch.Tensor | None]]) -> tuple[TensorInfo, ...]:
        infos = []
        for name, tensor in members:
            if tensor is not None:
                owner = owners.setdefault(id(tensor), path)
                infos.append(_tensor_info(name, tensor, None if owner is path else owner, names))
        return tuple(infos)

    def info(place: WalkedModule) -> ModuleInfo:
        module, path, name, parent, depth, same_as = place
        kind = type(module)
        type_name = kind.__name__
        if same_as >= 0:
            return ModuleInfo(path, name, type_name, parent, depth, id(module), same_as)
        opaque = "compiled" if type_name == "OptimizedModule" else ""
        if issubclass(kind, torch.jit.ScriptModule):
            type_name, opaque = getattr(module, "original_name", type_name), "TorchScript"
            parameters = tensors(path, module.named_parameters(recurse=False))
            buffers = tensors(path, module.named_buffers(recurse=False))
        else:
            parameters = tensors(path, own.items()) if (own := module._parameters) else ()
            buffers = tensors(path, held.items()) if (held := module._buffers) else ()
            # Quantized layers keep parameters in a packed object, which is a child that would count them again.
            if not parameters and hasattr(kind, "_weight_bias") and not type_name.endswith("PackedParams"):
                parameters = tensors(path, zip(("weight", "bias"), module._weight_bias(), strict=False))  # type: ignore[operator]
        container = issubclass(kind, (nn.Sequential, nn.ModuleList))
        return ModuleInfo(
            path, name or type_name, type_name, parent, depth, id(module), -1, container, opaque, parameters, buffers
        )

    return Model(tuple(map(info, walk(models))))


class _Names(dict[Any, str]):
    """Names of dtypes and devices, cached: a model has few of them, and ``str`` is slow."""

    def __missing__(self, key: Any) -> str:
        self[key] = name = str(key).removeprefix("torch.")
        return name


def _tensor_info(name: str, tensor: torch.Tensor, owner: str | None, names: _Names) -> TensorInfo:
    dtype, device = names[tensor.dtype], names[tensor.device]
    if has_no_shape(tensor):
        return TensorInfo(name, (), dtype, device, 0, 0, tensor.requires_grad, owner, lazy=True)
    shape = tuple(tensor.shape)
    numel = prod(shape)
    return TensorInfo(name, shape, dtype, device, numel, numel * tensor.itemsize, tensor.requires_grad, owner)
