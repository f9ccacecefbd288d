"""Modules, as far as their calls tell: ``nn.Module: Linear_2`` is the third instance of ``Linear`` that was called."""

from __future__ import annotations

import re
from typing import Final

import numpy as np

from torchprof.importers.kineto.columns import Ints, Numbered
from torchprof.trace.model import Model, ModuleInfo
from torchprof.trace.schema import LAYOUTS, Rows

__all__ = ["model_of", "modules_of"]

_INSTANCE: Final = re.compile(r"_\d+$")


def modules_of(names: list[str], strings: Numbered[str]) -> Rows:
    """The table of modules: one for each of these names. The file has no addresses; a number takes their place."""
    rows = np.zeros(len(names), dtype=LAYOUTS["modules"])
    rows["address"] = np.arange(1, len(names) + 1)
    rows["type"] = [strings.row(_class_of(name)) for name in names]
    return rows


def model_of(names: list[str], module: Ints, parent: Ints, recomputed: Ints) -> Model | None:
    """The modules as a tree: each is below the one that called it first.

    Args:
        names: of the modules.
        module: of every call, the row of its module. Calls are in order of thread and start.
        parent: of every call, the call around it.
        recomputed: of every call, whether it ran in a backward pass: it tells where a module belongs only if no other does.
    """
    if not names:
        return None
    first = np.full(len(names), -1, dtype=np.int64)
    for rows in (np.flatnonzero(recomputed != 0)[::-1], np.flatnonzero(recomputed == 0)[::-1]):
        first[module[rows]] = rows
    around = parent[first]
    above = np.where(around >= 0, module[around].astype(np.int64), -1)
    children: dict[int, list[int]] = {}
    for row in np.argsort(first, kind="stable").tolist():
        children.setdefault(int(above[row]), []).append(row)
    found: list[ModuleInfo] = []
    placed: set[int] = set()
    # What calls itself, or two modules that call each other, have no root above them: they come last.
    for root in (*children.get(-1, ()), *range(len(names))):
        waiting = [(root, -1, "", 0)]
        while waiting:
            row, parent_row, prefix, depth = waiting.pop()
            if row in placed:
                continue
            placed.add(row)
            path = f"{prefix}.{names[row]}".lstrip(".")
            waiting += [(child, len(found), path, depth + 1) for child in reversed(children.get(row, ()))]
            found.append(ModuleInfo(path, names[row], _class_of(names[row]), parent_row, depth, row + 1))
    return Model(tuple(found))


def _class_of(name: str) -> str:
    return _INSTANCE.sub("", name)
