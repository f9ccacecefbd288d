"""The module that every allocation belongs to."""

from __future__ import annotations

from collections import defaultdict
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from torchprof.analysis.memory.categories import CATEGORIES
from torchprof.analysis.memory.parallel import parallel_memory
from torchprof.analysis.model.module_tree import paths
from torchprof.trace.schema import Rows
from torchprof.trace.trace import Trace

__all__ = ["NO_MODULE", "AllocationModules", "in_module", "module_label"]

NO_MODULE: Final = "(no module)"
"""In place of a path, for what belongs to no module. The path of the root is empty."""


class AllocationModules:
    """Paths of modules, and for every allocation which of them is its own.

    An allocation belongs to the module that holds it (a parameter), for which FSDP made it, or whose call made it.
    """

    def __init__(self, names: list[str], path: npt.NDArray[np.int64]) -> None:
        self._names, self._path = names, path

    @classmethod
    def of(cls, trace: Trace, allocations: Rows) -> Self:
        of_modules, of_calls = paths(trace)
        module, call = allocations["module"].astype(np.int64), allocations["module_call"].astype(np.int64)
        # The call tells apart modules that were made inside forward and had one address: see `paths`.
        by_call = call >= 0
        by_call[by_call] = trace.module_calls["module"][call[by_call]] == module[by_call]
        path = np.where(by_call, 1 + len(trace.modules) + call, 1 + module)
        names = [NO_MODULE, *of_modules, *of_calls]
        of_fsdp = parallel_memory(trace, allocations).modules
        for name in sorted(set(of_fsdp) - {""}):
            path[np.array(of_fsdp, dtype=np.str_) == name] = len(names)
            names.append(name)
        return cls(names, path)

    def path(self, allocation: int) -> str:
        """The path of the module of this allocation: empty for the root, `NO_MODULE` for none."""
        return self._names[int(self._path[allocation])]

    def groups(self, category: npt.NDArray[np.int64]) -> tuple[list[tuple[str, str]], npt.NDArray[np.int64]]:
        """The path and the category of every group of allocations that have both in common, and the group of each."""
        keys, group = np.unique(self._path * len(CATEGORIES) + category, return_inverse=True)
        named = [
            (self._names[path], CATEGORIES[kind]) for path, kind in (divmod(key, len(CATEGORIES)) for key in keys.tolist())
        ]
        return named, group.reshape(-1)

    def sums(self, category: npt.NDArray[np.int64], size: Rows, mask: npt.NDArray[np.bool_]) -> dict[str, dict[str, int]]:
        """Bytes of the allocations in ``mask``, by path and category.

        Args:
            category, size: the index in ``CATEGORIES``, and the bytes, of every allocation.
        """
        sums: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
        groups, group = np.unique(self._path[mask] * len(CATEGORIES) + category[mask], return_inverse=True)
        for key, total in zip(groups.tolist(), np.bincount(group, weights=size[mask]).tolist(), strict=False):
            path, kind = divmod(key, len(CATEGORIES))
            sums[self._names[path]][CATEGORIES[kind]] += int(total)
        return {path: dict(held) for path, held in sums.items()}


def module_label(trace: Trace, path: str) -> str:
    """What is printed for this path: of the root, the name of its class."""
    return path or (trace.model.modules[0].type if trace.model is not None and trace.model.modules else NO_MODULE)


def in_module(trace: Trace, path: str) -> str:
    """The same in a sentence: ``in encoder.0``, ``in no module``."""
    return "in no module" if path == NO_MODULE else f"in {module_label(trace, path)}"
