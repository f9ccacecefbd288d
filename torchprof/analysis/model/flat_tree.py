"""The module tree as columns: what traces of one model have in common is found once, and is one object."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt

from torchprof.analysis.model.module_tree import ModuleNode, module_tree, nodes_by_path
from torchprof.analysis.model.registered import registered
from torchprof.trace.trace import Trace

__all__ = ["FlatTree", "flat_tree"]

Place = tuple[str, str, str, int, int, int]
MODELS: Final = 64
"""Trees that are kept, as the stages of a pipeline have one each."""


@dataclass(frozen=True, eq=False, slots=True)
class FlatTree:
    """The nodes of a module tree, parents first.

    Attributes:
        paths, names, types, depths: of every node.
        parents: the place of the parent of each; -1 for none.
        node_of: the node of every row of ``trace.modules``; -1 for none.
    """

    paths: tuple[str, ...]
    names: tuple[str, ...]
    types: tuple[str, ...]
    depths: tuple[int, ...]
    parents: tuple[int, ...]
    node_of: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.paths)


def flat_tree(trace: Trace) -> FlatTree:
    """The module tree of a trace. Where all modules are registered in the model, traces of equal models have one in common."""
    modules = trace.model.modules if trace.model is not None else ()
    rows = registered(trace)
    if -1 in rows:
        return _of_nodes(trace)
    places = tuple((each.path, each.name, each.type, each.parent, each.depth, each.same_as) for each in modules)
    return _of_places(places, tuple(rows))


@lru_cache(maxsize=MODELS)
def _of_places(places: tuple[Place, ...], rows: tuple[int, ...]) -> FlatTree:
    """The tree of a model whose modules are at these places.

    Args:
        rows: the module of every row of ``trace.modules``.
    """
    below: list[list[int]] = [[] for _ in range(len(places) + 1)]  # the last are the roots
    for row, (_, _, _, parent, _, _) in enumerate(places):
        below[parent].append(row)
    order: list[int] = []
    parents: list[int] = []
    at_of = {-1: -1}
    waiting = below[-1][::-1]
    while waiting:
        row = waiting.pop()
        at_of[row] = len(order)
        order.append(row)
        parents.append(at_of[places[row][3]])
        waiting += below[row][::-1]
    names = [places[row] for row in order]
    return FlatTree(
        tuple(place[0] for place in names),
        tuple(place[1] for place in names),
        tuple(place[2] for place in names),
        tuple(place[4] for place in names),
        tuple(parents),
        np.array([at_of[row] for row in rows], dtype=np.int64),
    )


def _of_nodes(trace: Trace) -> FlatTree:
    """The tree of a trace with modules that are registered nowhere: its own."""
    nodes: list[ModuleNode] = []
    parents: list[int] = []

    def add(node: ModuleNode, parent: int) -> None:
        at = len(nodes)
        nodes.append(node)
        parents.append(parent)
        for child in nodes_by_path(node.children):
            add(child, at)

    for root in nodes_by_path(module_tree(trace)):
        add(root, -1)
    node_of = np.full(len(trace.modules), -1, dtype=np.int64)
    for at, node in enumerate(nodes):
        node_of[node.modules] = at
    columns = zip(*((node.path, node.name, node.type, node.depth) for node in nodes), strict=True)
    paths, names, types, depths = columns if nodes else ((), (), (), ())
    return FlatTree(paths, names, types, depths, tuple(parents), node_of)
