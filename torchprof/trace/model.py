"""The model in a trace: its modules, parameters and buffers, as plain data.

Modules are listed in the order ``print(model)`` shows them. A module that is registered at several
places is described at the first; the other places refer to that. A parameter that several modules share belongs to the first.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeVar, get_type_hints

from torchprof.trace.kinds import is_of_kind
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


Info = TypeVar("Info", TensorInfo, ModuleInfo)


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
    def from_json(cls, document: Any) -> Model:
        """The model of such data. What a newer torchprof wrote beside it is left out.

        Raises:
            ValueError: it is no such data: names the module.
        """
        if not isinstance(document, list):
            raise ValueError(f"the model is {type(document).__name__}, not a list of modules")
        if not document:
            raise ValueError("the model has no modules")
        modules: list[ModuleInfo] = []
        for row, item in enumerate(document):
            module = _module(item, row)
            if not (-1 <= module.parent < row and -1 <= module.same_as < row):
                raise ValueError(f"module {row} of the model is not inside another that comes before it")
            if module.depth != (modules[module.parent].depth + 1 if module.parent >= 0 else 0):
                raise ValueError(f"module {row} of the model is at depth {module.depth}, not one below its parent")
            modules.append(module)
        return cls(tuple(modules))


KINDS: Final = {kind: get_type_hints(kind) for kind in (TensorInfo, ModuleInfo)}


def _tensor(item: Any, row: int) -> TensorInfo:
    if isinstance(item, dict) and isinstance(shape := item.get("shape"), list):
        item = {**item, "shape": tuple(shape)}
    return _read(TensorInfo, item, row)


def _module(item: Any, row: int) -> ModuleInfo:
    if isinstance(item, dict):
        tensors = {
            name: tuple(_tensor(each, row) for each in item[name])
            for name in ("parameters", "buffers")
            if isinstance(item.get(name), list)
        }
        size = item.get("kernel_size")
        item = {**item, **tensors, "kernel_size": tuple(size) if isinstance(size, list) else size}
    return _read(ModuleInfo, item, row)


def _read(kind: type[Info], item: Any, row: int) -> Info:
    """A named tuple of a dict with its fields, each of which must be of its kind."""
    known = {name: item[name] for name in kind._fields if name in item} if isinstance(item, dict) else {}
    missing = [name for name in kind._fields if name not in known and name not in kind._field_defaults]
    wrong = [name for name, value in known.items() if not is_of_kind(value, KINDS[kind][name])]
    if missing or wrong:
        raise ValueError(f"module {row} of the model has no {(missing + wrong)[0]}, or another than a model's")
    return kind(**known)
