"""The module tree: the modules of the model, with the recorded modules and module calls that belong to each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from torchprof.analysis.model.callers import callers
from torchprof.analysis.model.registered import registered
from torchprof.analysis.remembered import remembered
from torchprof.trace.model import ModuleInfo
from torchprof.trace.trace import Trace

__all__ = [
    "OUTSIDE",
    "SEVERAL_MODULES",
    "ModuleNode",
    "module_labels",
    "module_tree",
    "modules_inside",
    "nodes_by_path",
    "paths",
    "paths_of_modules",
]


SEVERAL_MODULES: Final = 0
"""In place of an address, in an aggregated trace: several modules of a class that are registered nowhere, see `ModuleNode`."""
OUTSIDE: Final = "outside modules"
"""Name of the row for what belongs to no module: the loss, gradients of no known module, optimizers that update all at once."""


class ModuleNode:
    """A node of the module tree.

    Attributes:
        path, name, type: dotted name in the model, its last part, and the name of its class; the name is ``<Class>`` for a
            module that was called but is not registered anywhere in the model, and ``<other Class>`` for those of an aggregated
            trace that have no sums of their own.
        depth: 0 for a root.
        info: its row of ``trace.model``, or None where it is not registered.
        children: the nodes below.
        calls: its rows of ``trace.module_calls``.
        modules: its rows of ``trace.modules``.
    """

    __slots__ = ("calls", "children", "depth", "info", "modules", "name", "path", "type", "unregistered")

    def __init__(self, path: str, name: str, type: str, depth: int, info: ModuleInfo | None = None) -> None:
        self.path, self.name, self.type, self.depth, self.info = path, name, type, depth, info
        self.children: list[ModuleNode] = []
        self.calls: list[int] = []
        self.modules: list[int] = []
        self.unregistered: dict[tuple[int, str], ModuleNode] = {}

    def walk(self) -> Iterator[ModuleNode]:
        """This node and all nodes below it, parents first."""
        yield self
        for child in self.children:
            yield from child.walk()


def module_tree(trace: Trace) -> list[ModuleNode]:
    """The roots of the tree: one for each recorded model, then the modules that were called outside of all models.

    A module that is registered in several places has its calls at the first. One that is registered nowhere (it was made
    inside forward, or is kept in a plain list) is a child of the module that called it, also where it did so on another thread.
    """
    roots: list[ModuleNode] = []
    nodes: list[ModuleNode] = []
    for info in trace.model.modules if trace.model is not None else ():
        node = ModuleNode(info.path, info.name, info.type, info.depth, info)
        nodes.append(node)
        (nodes[info.parent].children if info.parent >= 0 else roots).append(node)

    addresses = trace.modules["address"].tolist()
    types = [trace.strings[row] for row in trace.modules["type"].tolist()]
    node_of_module = [nodes[row] if row >= 0 else None for row in registered(trace)]
    outside = ModuleNode("", "", "", -1)
    node_of_call: list[ModuleNode] = []
    parents = trace.module_calls["parent"].tolist()
    made_by: list[int] | None = None
    for row, (module, parent) in enumerate(zip(trace.module_calls["module"].tolist(), parents, strict=True)):
        found = node_of_module[module]
        if found is None or found.info is None:
            if parent < 0:  # on a thread of its own, or recomputed
                made_by = callers(trace).tolist() if made_by is None else made_by
                parent = made_by[row]
            caller = _node_of(parent, node_of_call, node_of_module, trace) or outside
            found = node_of_module[module] = _unregistered(caller, addresses[module], types[module])
        found.calls.append(row)
        node_of_call.append(found)
    # An aggregated trace has no single calls, but knows which module first called each module.
    for module, caller_module in trace.call_totals[["module", "caller"]].tolist():
        if node_of_module[module] is None:
            caller = (node_of_module[caller_module] if caller_module >= 0 else None) or outside
            node_of_module[module] = _unregistered(caller, addresses[module], types[module])
    for row, (address, type) in enumerate(zip(addresses, types, strict=True)):
        found = node_of_module[row] or _unregistered(outside, address, type)
        found.modules.append(row)
    return roots + outside.children


def nodes_by_path(nodes: list[ModuleNode]) -> list[ModuleNode]:
    """The nodes, with those of one path as one: only modules that are not registered in the model have a path in common."""
    found: list[ModuleNode] = []
    first: dict[str, ModuleNode] = {}
    for node in nodes:
        if node.info is not None or first.setdefault(node.path, node) is node:
            found.append(node)
        else:
            for members in ("children", "modules", "calls"):
                getattr(first[node.path], members).extend(getattr(node, members))
    return found


def _node_of(
    call: int, node_of_call: list[ModuleNode], node_of_module: list[ModuleNode | None], trace: Trace
) -> ModuleNode | None:
    """The node of a call, also where its row comes later: on another thread."""
    if 0 <= call < len(node_of_call):
        return node_of_call[call]
    return node_of_module[int(trace.module_calls["module"][call])] if call >= 0 else None


def _unregistered(caller: ModuleNode, address: int, type: str) -> ModuleNode:
    """The child of the caller for a module that is registered nowhere."""
    key = address, type
    found = caller.unregistered.get(key)
    if found is None:
        name = f"<other {type}>" if address == SEVERAL_MODULES else f"<{type}>"
        path = f"{caller.path}.{name}".lstrip(".")
        found = caller.unregistered[key] = ModuleNode(path, name, type, caller.depth + 1)
        caller.children.append(found)
    return found


@remembered
def paths(trace: Trace) -> tuple[list[str], list[str]]:
    """The path in the model of every row of ``trace.modules``, and of every row of ``trace.module_calls``.

    Several modules that were made inside forward and freed again may have had one address, and so be one row of
    ``trace.modules``; the paths of their calls tell them apart.
    """
    of_modules, of_calls = [""] * len(trace.modules), [""] * len(trace.module_calls)
    for root in module_tree(trace):
        for node in root.walk():
            for row in node.modules:
                of_modules[row] = node.path
            for row in node.calls:
                of_calls[row] = node.path
    return of_modules, of_calls


def paths_of_modules(trace: Trace) -> list[str]:
    """The path in the model of every row of ``trace.modules``."""
    return paths(trace)[0]


def module_labels(trace: Trace) -> list[str]:
    """The name to show for every row of ``trace.modules``: its path, or its class for the root. The last is `OUTSIDE`."""
    labels = [path or trace.strings[row] for path, row in zip(paths_of_modules(trace), trace.modules["type"], strict=True)]
    return [*labels, OUTSIDE]


def modules_inside(trace: Trace, path: str) -> list[int]:
    """The rows of ``trace.modules`` of the module with this path and of all below it; of all modules for an empty path."""
    return [
        row
        for root in module_tree(trace)
        for node in root.walk()
        if node.path == path or node.path.startswith(f"{path}.") or not path
        for row in node.modules
    ]
