"""The module tree: what a model is made of, read once and kept with the trace.

Modules are listed in the order ``print(model)`` shows them. A module registered at several places is one module: its
first place describes it, the others refer to that. A parameter used by several modules belongs to the first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

__all__ = ["Model", "Models", "ModuleInfo", "Place", "TensorInfo", "describe", "has_no_shape", "is_lazy", "tensors_of", "walk"]


# Named tuples where there may be tens of thousands: they are made four times faster than frozen dataclasses.


class TensorInfo(NamedTuple):
    """One parameter or buffer.

    Attributes:
        name: its name within the module.
        shape: its sizes; empty for a lazy one.
        dtype: as in ``float32``.
        device: as in ``cuda:0``.
        numel: number of elements.
        bytes: what the elements take in their real dtype.
        trainable: whether it requires a gradient.
        owner: path of the module that counted it first, or None if that is this one.
        lazy: whether it has no shape before the first call.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    device: str
    numel: int
    bytes: int
    trainable: bool
    owner: str | None = None
    lazy: bool = False


class ModuleInfo(NamedTuple):
    """One place in the module tree.

    Attributes:
        path: dotted name, as ``named_modules`` gives it; empty for the root.
        name: its last part; for the root, the name of its class.
        type: name of its class.
        parent: row of the parent; -1 for the root.
        depth: 0 for the root.
        address: ``id()`` of the module, by which a recording knows it.
        same_as: row of the first place of this very module, or -1 if this is it.
        container: whether it is an ``nn.Sequential`` or ``nn.ModuleList``.
        opaque: why calls inside it are not seen: ``"TorchScript"``, ``"compiled"`` or empty.
        parameters, buffers: its own, without those of its children; empty where ``same_as`` is set.
    """

    path: str
    name: str
    type: str
    parent: int
    depth: int
    address: int
    same_as: int = -1
    container: bool = False
    opaque: str = ""
    parameters: tuple[TensorInfo, ...] = ()
    buffers: tuple[TensorInfo, ...] = ()


@dataclass(frozen=True, slots=True)
class Model:
    """All modules of a model, parents before children."""

    modules: tuple[ModuleInfo, ...]

    def parameters(self) -> Iterator[TensorInfo]:
        """Every parameter once."""
        return (p for m in self.modules for p in m.parameters if p.owner is None)

    def buffers(self) -> Iterator[TensorInfo]:
        """Every buffer once."""
        return (b for m in self.modules for b in m.buffers if b.owner is None)

    def to_json(self) -> list[dict[str, Any]]:
        return [
            {
                **module._asdict(),
                "parameters": [tensor._asdict() for tensor in module.parameters],
                "buffers": [tensor._asdict() for tensor in module.buffers],
            }
            for module in self.modules
        ]

    @classmethod
    def from_json(cls, document: list[dict[str, Any]]) -> Model:
        def tensors(items: list[dict[str, Any]]) -> tuple[TensorInfo, ...]:
            return tuple(TensorInfo(**{**item, "shape": tuple(item["shape"])}) for item in items)

        return cls(
            tuple(
                ModuleInfo(**{**m, "parameters": tensors(m["parameters"]), "buffers": tensors(m["buffers"])}) for m in document
            )
        )


class Place(NamedTuple):
    """One place of a module in the tree: see `walk`."""

    module: nn.Module
    path: str
    name: str
    parent: int
    depth: int
    same_as: int


Models = nn.Module | Mapping[str, nn.Module]
"""One model, or several by name."""


def walk(models: Models) -> list[Place]:
    """Every place of every module, parents before children. What is below a module is listed at its first place only."""
    places: list[Place] = []
    first_place: dict[int, int] = {}

    def visit(module: nn.Module, path: str, name: str, parent: int, depth: int) -> None:
        row = len(places)
        known = first_place.setdefault(id(module), row)
        if known != row:
            places.append(Place(module, path, name, parent, depth, known))
            return
        places.append(Place(module, path, name, parent, depth, -1))
        # The dictionary behind named_children(), which takes three times as long; ScriptModules have another thing there.
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
    """What modules themselves hold in ``_parameters`` or ``_buffers``."""
    for module in modules:
        for tensor in getattr(module, registry).values():
            if tensor is not None:
                yield tensor


def has_no_shape(tensor: torch.Tensor) -> bool:
    """Whether this is a parameter or buffer of a lazy module that was not called yet."""
    # isinstance would ask the metaclass of nn.Parameter, which is written in Python.
    return issubclass(type(tensor), (UninitializedParameter, UninitializedBuffer))


def is_lazy(places: Iterable[Place]) -> bool:
    """Whether some parameter or buffer has no shape before the first call."""
    return any(isinstance(place.module, LazyModuleMixin) and place.module.has_uninitialized_params() for place in places)


def describe(models: Models) -> Model:
    """Read the module tree of one model or of several. Changes nothing, runs nothing, and works on ``meta`` and lazy models."""
    owners: dict[int, str] = {}
    names = _Names()

    def tensors(path: str, members: Iterable[tuple[str, torch.Tensor | None]]) -> tuple[TensorInfo, ...]:
        infos = []
        for name, tensor in members:
            if tensor is not None:
                owner = owners.setdefault(id(tensor), path)
                infos.append(_tensor_info(name, tensor, None if owner is path else owner, names))
        return tuple(infos)

    def info(place: Place) -> ModuleInfo:
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
            # Quantized layers keep theirs packed; the object they pack them in is a child that would count them again.
            if not parameters and hasattr(kind, "_weight_bias") and not type_name.endswith("PackedParams"):
                parameters = tensors(path, zip(("weight", "bias"), module._weight_bias(), strict=False))  # type: ignore[operator]
        container = issubclass(kind, (nn.Sequential, nn.ModuleList))
        return ModuleInfo(
            path, name or type_name, type_name, parent, depth, id(module), -1, container, opaque, parameters, buffers
        )

    return Model(tuple(map(info, walk(models))))


class _Names(dict[Any, str]):
    """The names of dtypes and devices: a model has few, and asking one for its name is slow."""

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
