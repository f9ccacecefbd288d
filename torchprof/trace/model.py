"""The model in a trace: its modules, parameters and buffers, as plain data.

Modules are listed in the order ``print(model)`` shows them. A module that is registered at several
places is described at the first; the other places refer to that. A parameter that several modules share belongs to the first.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from torchprof.trace.shapes import Shape

__all__ = ["UNKNOWN", "Model", "ModuleInfo", "TensorInfo"]

UNKNOWN = "unknown"
"""The dtype of what cannot be read: its ``numel`` and ``bytes`` are 0, and say nothing."""

# Named tuples, because there may be tens of thousands: they are made four times faster than frozen dataclasses.


class TensorInfo(NamedTuple):
    """One parameter or buffer.

    Attributes:
        name: its name within the module.
        shape: its sizes; empty if it is lazy.
        dtype: as in ``float32``; ``unknown`` where it cannot be read.
        device: as in ``cuda:0``.
        numel: number of elements.
        bytes: what its elements take, with their scales and zero points where these are tensors; of a tensor subclass around
            other tensors, what these take.
        trainable: whether it requires a gradient.
        owner: path of the module that it belongs to; None if that is this module.
        lazy: whether it has no shape before the first call of the module.
    """

    name: str
    shape: Shape
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
        address: ``id()`` of the module, which rows of ``trace.modules`` refer to.
        same_as: row of the first place of this module; -1 if this is it.
        container: whether it is an ``nn.Sequential`` or ``nn.ModuleList``.
        opaque: why calls inside it are not recorded: ``"TorchScript"``, ``"compiled"``, ``"exported"`` or empty.
        parameters, buffers: without those of its children; empty where ``same_as`` is set.
        defined: where its class is, as ``/home/me/my_network.py:14``; None where that is not known.
        training: whether it is in train mode; None where that is not known, or ``same_as`` is set.
        kernel_size: of a convolution or pooling; None where it has none, or ``same_as`` is set.
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
    defined: str | None = None
    training: bool | None = None
    kernel_size: int | tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Model:
    """All modules of a model, parents before children."""

    modules: tuple[ModuleInfo, ...]

    def parameters(self) -> Iterator[TensorInfo]:
        """Every parameter, once."""
        return (p for m in self.modules for p in m.parameters if p.owner is None)

    def buffers(self) -> Iterator[TensorInfo]:
        """Every buffer, once."""
        return (b for m in self.modules for b in m.buffers if b.owner is None)

    def to_json(self) -> list[dict[str, Any]]:
        """The modules as plain data, for the file of a trace."""
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
        """The model of such data. What a newer torchprof wrote beside it is left out."""

        def known(item: dict[str, Any], fields: tuple[str, ...]) -> dict[str, Any]:
            return {name: item[name] for name in fields if name in item}

        def tensors(items: list[dict[str, Any]]) -> tuple[TensorInfo, ...]:
            return tuple(TensorInfo(**{**known(item, TensorInfo._fields), "shape": tuple(item["shape"])}) for item in items)

        def module(item: dict[str, Any]) -> ModuleInfo:
            size = item.get("kernel_size")
            read = {
                "parameters": tensors(item["parameters"]),
                "buffers": tensors(item["buffers"]),
                "kernel_size": tuple(size) if isinstance(size, list) else size,
            }
            return ModuleInfo(**{**known(item, ModuleInfo._fields), **read})

        return cls(tuple(map(module, document)))
