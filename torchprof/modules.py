"""The module tree: what a model is made of, read once and kept with the trace.

Modules are listed in the order ``print(model)`` shows them. A module registered at several places is one module: its
first place describes it, the others refer to that. A parameter used by several modules belongs to the first.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from math import prod
from typing import Any

import torch
from torch import nn

__all__ = ["Model", "ModuleInfo", "TensorInfo", "describe"]


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One parameter or buffer.

    Attributes:
        name: its name within the module.
        shape: its sizes; empty for a lazy parameter that has none yet.
        dtype: as in ``float32``.
        device: as in ``cuda:0``.
        numel: number of elements.
        bytes: what the elements take in their real dtype.
        trainable: whether it requires a gradient.
        owner: path of the module that counted it first, or None if that is this one.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    device: str
    numel: int
    bytes: int
    trainable: bool
    owner: str | None = None


@dataclass(frozen=True, slots=True)
class ModuleInfo:
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
        return [asdict(module) for module in self.modules]

    @classmethod
    def from_json(cls, document: list[dict[str, Any]]) -> Model:
        def tensors(items: list[dict[str, Any]]) -> tuple[TensorInfo, ...]:
            return tuple(TensorInfo(**{**item, "shape": tuple(item["shape"])}) for item in items)

        return cls(
            tuple(
                ModuleInfo(**{**m, "parameters": tensors(m["parameters"]), "buffers": tensors(m["buffers"])})
                for m in document
            )
        )


def describe(model: nn.Module) -> Model:
    """Read the module tree of a model. Changes nothing, runs nothing, and works on ``meta`` and lazy models."""
    modules: list[ModuleInfo] = []
    first_place: dict[int, int] = {}
    owners: dict[int, str] = {}
    names = _Names()

    def tensors(path: str, members: Any) -> tuple[TensorInfo, ...]:
        infos = []
        for name, tensor in members:
            if tensor is None:
                continue
            owner = owners.setdefault(id(tensor), path)
            infos.append(_tensor_info(name, tensor, None if owner is path else owner, names))
        return tuple(infos)

    def visit(module: nn.Module, path: str, name: str, parent: int, depth: int) -> None:
        row = len(modules)
        known = first_place.setdefault(id(module), row)
        type_name = type(module).__name__
        if known != row:
            modules.append(ModuleInfo(path, name, type_name, parent, depth, id(module), same_as=known))
            return
        scripted = isinstance(module, torch.jit.ScriptModule)
        if scripted:
            type_name = getattr(module, "original_name", type_name)
            parameters, buffers = module.named_parameters(recurse=False), module.named_buffers(recurse=False)
            children = module.named_children()
        else:
            # The dictionaries behind the iterators of nn.Module: a third of the time on a model of many modules.
            parameters, buffers = module._parameters.items(), module._buffers.items()
            children = module._modules.items()
        found = tensors(path, parameters)
        packed = getattr(module, "_weight_bias", None)
        if packed is not None and not found:  # quantized layers keep theirs packed
            found = tensors(path, zip(("weight", "bias"), packed(), strict=False))
        modules.append(
            ModuleInfo(
                path,
                name or type_name,
                type_name,
                parent,
                depth,
                id(module),
                container=isinstance(module, nn.Sequential | nn.ModuleList),
                opaque="TorchScript" if scripted else "compiled" if type_name == "OptimizedModule" else "",
                parameters=found,
                buffers=tensors(path, buffers),
            )
        )
        for child_name, child in children:
            if child is not None:
                visit(child, f"{path}.{child_name}" if path else child_name, child_name, row, depth + 1)

    visit(model, "", "", -1, 0)
    return Model(tuple(modules))


class _Names(dict[Any, str]):
    """The names of dtypes and devices: a model has few, and asking one for its name is slow."""

    def __missing__(self, key: Any) -> str:
        self[key] = name = str(key).removeprefix("torch.")
        return name


def _tensor_info(name: str, tensor: torch.Tensor, owner: str | None, names: _Names) -> TensorInfo:
    dtype, device = names[tensor.dtype], names[tensor.device]
    if isinstance(tensor, nn.parameter.UninitializedTensorMixin):
        return TensorInfo(name, (), dtype, device, 0, 0, tensor.requires_grad, owner)
    shape = tuple(tensor.shape)
    numel = prod(shape)
    return TensorInfo(name, shape, dtype, device, numel, numel * tensor.itemsize, tensor.requires_grad, owner)
