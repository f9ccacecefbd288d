"""Figures of every module of a trace as one array, so that those of a thousand ranks are joined as arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from torchprof.analysis.model.flat_tree import FlatTree, flat_tree
from torchprof.analysis.model.flops import counts_flops
from torchprof.analysis.remembered import remembered
from torchprof.analysis.steps import PHASE_COLUMNS, step_times
from torchprof.analysis.time.module_records import OTHER, WITHOUT_MODULE, sums_by_module, unknown_by_module
from torchprof.analysis.time.totals import step_totals
from torchprof.trace.trace import Trace

__all__ = ["PHASES", "ModuleFigures", "module_figures", "with_below"]

Floats = npt.NDArray[np.float64]

PHASES: Final = (*PHASE_COLUMNS, OTHER)
TOTALS: Final = ("calls", *PHASES, "flops", "device")


@dataclass(frozen=True, eq=False, slots=True)
class ModuleFigures:
    """Means over steps of every module itself, without what is below it.

    Attributes:
        tree: the modules; after its nodes come those of `WITHOUT_MODULE`.
        names: of the figures, some of ``calls forward recompute backward optimizer data other flops device``.
        own: ``[figures, nodes and without]``.
        step: nanoseconds of a step.
        counts_flops: whether FLOPs were counted at all.
        unknown: the ops of every node itself whose FLOPs are unknown.
    """

    tree: FlatTree
    names: tuple[str, ...]
    own: Floats
    step: float
    counts_flops: bool
    unknown: tuple[frozenset[str], ...]

    @property
    def shown(self) -> tuple[int, ...]:
        """The nodes, and of what belongs to no module what took time."""
        counted = [row for row, name in enumerate(self.names) if name in PHASES or name == "device"]
        works = self.own[counted, len(self.tree) :].any(axis=0)
        return (*range(len(self.tree)), *(len(self.tree) + np.flatnonzero(works)).tolist())


@remembered
def module_figures(trace: Trace) -> ModuleFigures:
    """The figures of the modules of a trace."""
    totals, tree = step_totals(trace), flat_tree(trace)
    sums = {name: values.sum(axis=1) / totals.steps for name, values in sums_by_module(trace, totals, ("flops",)).items()}
    count = len(tree) + len(WITHOUT_MODULE)
    node_of = np.append(tree.node_of, np.arange(len(tree), count))
    names = tuple(name for name in TOTALS if name in sums)
    known = node_of >= 0
    own = np.array([np.bincount(node_of[known], weights=sums[name][known], minlength=count) for name in names])
    times = step_times(trace)
    step = float(times.time.sum()) / totals.steps if times is not None else float(sum(sums[name].sum() for name in PHASES))
    unknown = [frozenset[str]()] * count
    for row, ops in unknown_by_module(trace, totals)["flops"].items():
        if node_of[row] >= 0:
            unknown[node_of[row]] |= ops
    return ModuleFigures(tree, names, own, step, counts_flops(trace), tuple(unknown))


def with_below(tree: FlatTree, own: Floats) -> Floats:
    """Figures of modules, ``[..., nodes and without]``, with those of all modules below."""
    total = own.copy()
    for at in range(len(tree) - 1, 0, -1):
        if tree.parents[at] >= 0:
            total[..., tree.parents[at]] += total[..., at]
    return total
