"""Where in the model things happened: the module tree, with the modules and calls of a recording put to their places."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from torchprof.trace.model import ModuleInfo
from torchprof.trace.trace import Trace

__all__ = ["OUTSIDE", "ModuleNode", "module_labels", "module_tree", "modules_inside", "paths", "paths_of_modules"]


OUTSIDE: Final = "outside modules"
"""Name of the row for what belongs to no module: the loss, gradients nobody can place, optimizers that update all at once."""


class ModuleNode:
    """A place in the module tree.

    Attributes:
        path, name, type: dotted name in the model, its last part, and class; ``<Class>`` for a module that was called
            without being registered anywhere in the model.
        depth: 0 for a root.
        info: what the model says of it, or None where it is not registered.
        children: the places below.
        calls: rows of ``trace.module_calls``.
        modules: rows of ``trace.modules``.
    """

    __slots__ = ("calls", "children", "depth", "info", "modules", "name", "path", "type", "unregistered")

    def __init__(self, path: str, name: str, type: str, depth: int, info: ModuleInfo | None = None) -> None:
        self.path, self.name, self.type, self.depth, self.info = path, name, type, depth, info
        self.children: list[ModuleNode] = []
        self.calls: list[int] = []
        self.modules: list[int] = []
        self.unregistered: dict[tuple[int, str], ModuleNode] = {}

    def walk(self) -> Iterator[ModuleNode]:
        """This place and everything below it, parents first."""
        yield self
        for child in self.children:
            yield from child.walk()


def module_tree(trace: Trace) -> list[ModuleNode]:
    """The roots of the tree: one for each model that was given, then the modules that were called outside of any.

    A module registered at several places has its calls at the first. One that is registered nowhere (made inside forward, or
    kept in a plain list) is placed below the module that called it.
    """
    roots: list[ModuleNode] = []
    by_address: dict[int, ModuleNode] = {}
    places: list[ModuleNode] = []
    for info in trace.model.modules if trace.model is not None else ():
        place = ModuleNode(info.path, info.name, info.type, info.depth, info)
        places.append(place)
        (places[info.parent].children if info.parent >= 0 else roots).append(place)
        if info.same_as < 0:
            by_address[info.address] = place

    addresses = trace.modules["address"].tolist()
    types = [trace.strings[row] for row in trace.modules["type"].tolist()]
    place_of_module: list[ModuleNode | None] = [by_address.get(address) for address in addresses]
    outside = ModuleNode("", "", "", -1)
    place_of_call: list[ModuleNode] = []
    calls = zip(trace.module_calls["module"].tolist(), trace.module_calls["parent"].tolist(), strict=True)
    for row, (module, parent) in enumerate(calls):
        found = place_of_module[module]
        if found is None or found.info is None:
            caller = place_of_call[parent] if parent >= 0 else outside
            found = place_of_module[module] = _unregistered(caller, addresses[module], types[module])
        found.calls.append(row)
        place_of_call.append(found)
    # Where steps were folded there are no calls, but it is known what called a module first.
    for module, caller in trace.call_totals[["module", "caller"]].tolist():
        if place_of_module[module] is None:
            around = (place_of_module[caller] if caller >= 0 else None) or outside
            place_of_module[module] = _unregistered(around, addresses[module], types[module])
    for row, (address, type) in enumerate(zip(addresses, types, strict=True)):
        found = place_of_module[row] or _unregistered(outside, address, type)
        found.modules.append(row)
    return roots + outside.children


def _unregistered(caller: ModuleNode, address: int, type: str) -> ModuleNode:
    key = address, type
    found = caller.unregistered.get(key)
    if found is None:
        path = f"{caller.path}.<{type}>".lstrip(".")
        found = caller.unregistered[key] = ModuleNode(path, f"<{type}>", type, caller.depth + 1)
        caller.children.append(found)
    return found


def paths(trace: Trace) -> tuple[list[str], list[str]]:
    """For every row of ``trace.modules``, and of ``trace.module_calls``, where it is in the model.

    ``<Class>`` is a module that is not registered. Of such as were made inside forward and are gone, several may have had one
    address: their calls tell them apart.
    """
    of_modules, of_calls = [""] * len(trace.modules), [""] * len(trace.module_calls)
    for root in module_tree(trace):
        for place in root.walk():
            for row in place.modules:
                of_modules[row] = place.path
            for row in place.calls:
                of_calls[row] = place.path
    return of_modules, of_calls


def paths_of_modules(trace: Trace) -> list[str]:
    """The first of `paths`."""
    return paths(trace)[0]


def module_labels(trace: Trace) -> list[str]:
    """The same for people: the root of the model is called by its class. One more, at -1, is what belongs to no module."""
    labels = [path or trace.strings[row] for path, row in zip(paths_of_modules(trace), trace.modules["type"], strict=True)]
    return [*labels, OUTSIDE]


def modules_inside(trace: Trace, path: str) -> list[int]:
    """The rows of ``trace.modules`` of the module with this path and of those below it; of any for an empty path."""
    return [
        row
        for root in module_tree(trace)
        for place in root.walk()
        if place.path == path or place.path.startswith(f"{path}.") or not path
        for row in place.modules
    ]
