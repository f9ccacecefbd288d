"""Finds the models of a program: what is called outside of all other module calls, and the modules that this is a part of.

A model is not kept alive. It may be gone when the recording ends, as where a function built it, so what it consists of is read
when its first call has ended, and again at the end if it still lives.
"""

from __future__ import annotations

import gc
import sys
import weakref
from dataclasses import dataclass, replace
from typing import Any, Final

from torch import nn

from torchprof import _native
from torchprof.record.modules import describe
from torchprof.record.opaque import is_opaque
from torchprof.record.packed import is_packing
from torchprof.trace.model import Model, ModuleInfo, TensorInfo
from torchprof.trace.trace import Trace

__all__ = ["FoundModels", "live_objects"]

MOST_LOOKS: Final = 32
"""How often all objects are gone through for what a module is a part of, which takes some hundredths of a second."""
MOST_MODELS: Final = 64
BEYOND: Final = 2**56
"""Above all addresses of a process; so many times as there are models, it fits 63 bits."""


@dataclass(slots=True)
class Found:
    """A model.

    Attributes:
        module: a weak reference to it.
        name: which no other has.
        described: what it consisted of when its first call had ended; None before.
        is_moved: whether its modules have other addresses than those where they were.
    """

    module: weakref.ref[nn.Module]
    name: str
    described: Model | None = None
    is_moved: bool = False

    @property
    def is_gone(self) -> bool:
        """Whether it is known only by what it consisted of."""
        return self.module() is None and self.described is not None


class FoundModels:
    """The models found so far, in the order in which they were first called."""

    def __init__(self) -> None:
        self._known: dict[int, weakref.ref[nn.Module]] = {}  # modules that were looked at, by their ids
        self._found: list[Found] = []
        self._looks = 0

    def __len__(self) -> int:
        return len(self._found)

    def meet(self, module: nn.Module) -> bool:
        """A module is called outside of all others. Whether it is a model, or a part of one: not a loss function, which has no
        parameters."""
        known = self._known.get(id(module))
        if known is not None and known() is module:
            return True
        self._move_gone()
        if not has_parameters(module):
            return False
        self._known[id(module)] = weakref.ref(module)
        root = self._root(module)
        if len(self._found) < MOST_MODELS and not any(found.module() is root for found in self._found):
            self._found.append(Found(weakref.ref(root), self._name(root)))
        return True

    def describe(self, module: nn.Module) -> None:
        """A call of a module has ended: read models that were not read before. Lazy ones have their parameters now."""
        for found in self._found:
            root = found.module()
            if found.described is None and root is not None:
                found.described = describe(root)

    def living(self) -> nn.Module | dict[str, nn.Module] | None:
        """Those that live, as `torchprof.profile` takes them."""
        living = {found.name: root for found in self._found if (root := found.module()) is not None}
        return next(iter(living.values())) if len(self._found) == 1 and living else living or None

    def with_gone(self, trace: Trace) -> Trace:
        """The trace with what is known of models that do not live any more, after those that do."""
        modules = list(trace.model.modules) if trace.model is not None else []
        for found in self._found:
            if found.is_gone and found.described is not None:
                gone = found.described if len(self._found) == 1 else named(found.described, found.name)
                at = len(modules)
                modules += [moved(info, at) for info in gone.modules]
        return replace(trace, model=Model(tuple(modules)) if modules else None)

    def _move_gone(self) -> None:
        """Another model is called for the first time, whose modules may lie where those of models that are gone were: from here
        on these have addresses where no object can be, in what is recorded too."""
        for row, found in enumerate(self._found, 1):
            if found.is_gone and found.described is not None and not found.is_moved:
                infos = [info._replace(address=info.address + row * BEYOND) for info in found.described.modules]
                _native.move_modules({info.address - row * BEYOND: info.address for info in infos})
                found.described, found.is_moved = Model(tuple(infos)), True

    def _root(self, module: nn.Module) -> nn.Module:
        """What the module is a part of, such as a ``LightningModule``; itself where that is nothing, or several."""
        if self._looks >= MOST_LOOKS:
            return module
        self._looks += 1
        parents: dict[int, list[nn.Module]] = {}
        for each in live_objects(nn.Module):
            for child in (vars(each).get("_modules") or {}).values():
                parents.setdefault(id(child), []).append(each)
        seen = {id(module)}
        while len(above := parents.get(id(module), [])) == 1 and not is_wrapper(above[0]) and id(above[0]) not in seen:
            module = above[0]
            seen.add(id(module))
        return module

    def _name(self, root: nn.Module) -> str:
        """The name of the global variable that holds it, or else of its class; no two have the same."""
        main = vars(sys.modules["__main__"]) if "__main__" in sys.modules else {}
        own = next((name for name, value in main.items() if value is root and not name.startswith("_")), type(root).__name__)
        taken = {found.name for found in self._found}
        return own if own not in taken else next(f"{own}_{n}" for n in range(2, MOST_MODELS + 2) if f"{own}_{n}" not in taken)


def has_parameters(module: nn.Module) -> bool:
    """Whether any are in it, or packed in it, as in quantized modules."""
    return next(module.parameters(), None) is not None or any(is_packing(type(each)) for each in module.modules())


def live_objects(kind: type) -> list[Any]:
    """All objects of a class and those below it. Nothing of the program runs: not even ``__class__`` of an object is asked."""
    of_kind: dict[type, bool] = {}
    found = []
    for each in gc.get_objects():
        of = type(each)
        if of not in of_kind:
            of_kind[of] = issubclass(of, kind)
        if of_kind[of]:
            found.append(each)
    return found


def is_wrapper(module: nn.Module) -> bool:
    """Whether it stands around a model that was called without it: what ``torch.compile`` returned, or a DDP."""
    return is_opaque(type(module)) or isinstance(module, nn.parallel.DistributedDataParallel)


def named(model: Model, name: str) -> Model:
    """As one of several models, with this name before its paths."""

    def renamed(path: str) -> str:
        return f"{name}.{path}" if path else name

    def owned(tensors: tuple[TensorInfo, ...]) -> tuple[TensorInfo, ...]:
        return tuple(each if each.owner is None else each._replace(owner=renamed(each.owner)) for each in tensors)

    return Model(
        tuple(
            info._replace(
                path=renamed(info.path),
                name=info.name if info.path else name,
                parameters=owned(info.parameters),
                buffers=owned(info.buffers),
            )
            for info in model.modules
        )
    )


def moved(info: ModuleInfo, by: int) -> ModuleInfo:
    """The same, so many rows further down."""
    parent = info.parent + by if info.parent >= 0 else -1
    return info._replace(parent=parent, same_as=info.same_as + by if info.same_as >= 0 else -1)
