"""Means of every module over steps, as `module_records` has them: fewer figures, for tables of hundreds of traces."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from torchprof.analysis.model.flops import at_least, counts_flops
from torchprof.analysis.model.module_tree import ModuleNode, module_tree
from torchprof.analysis.records import Record, whole
from torchprof.analysis.remembered import remembered
from torchprof.analysis.steps import PHASE_COLUMNS, step_times
from torchprof.analysis.time.module_records import (
    OTHER,
    WITHOUT_MODULE,
    nodes_by_path,
    sums_by_module,
    unknown_by_module,
)
from torchprof.analysis.time.totals import step_totals
from torchprof.trace.trace import Trace

__all__ = ["module_means"]

PHASES: Final = (*PHASE_COLUMNS, OTHER)
TOTALS: Final = ("calls", *PHASES, "flops", "device")


@remembered
def module_means(trace: Trace) -> list[Record]:
    """One record for every node of the module tree, parents first, and for what belongs to no module.

    Keys are some of those of `module_records`, with the same values: ``path name type depth calls time self share``, the times
    by phase, ``flops`` and ``flops_unknown`` and, where kernels were recorded, ``device``.
    """
    totals = step_totals(trace)
    sums = {name: values.sum(axis=1) / totals.steps for name, values in sums_by_module(trace, totals).items()}
    nodes, parents = _flat(trace)
    rows, without = len(trace.modules), range(len(nodes), len(nodes) + len(WITHOUT_MODULE))
    of_rows = [-1] * rows
    for at, node in enumerate(nodes):
        for row in node.modules:
            of_rows[row] = at
    node_of = np.array([*of_rows, *without], dtype=np.int64)
    names = [name for name in TOTALS if name in sums]
    known = node_of >= 0
    own = np.array(
        [np.bincount(node_of[known], weights=sums[name][known], minlength=len(nodes) + len(WITHOUT_MODULE)) for name in names]
    )
    columns, unknown = own.T.tolist(), _unknown(trace, node_of)  # of plain numbers, which are faster one at a time
    for at in range(len(nodes) - 1, -1, -1):
        if parents[at] >= 0:
            columns[parents[at]] = [above + below for above, below in zip(columns[parents[at]], columns[at], strict=True)]
            unknown[parents[at]] = unknown[parents[at]] | unknown[at]
    total = np.array(columns).T
    times = step_times(trace)
    step = float(times.time.sum()) / totals.steps if times is not None else float(sum(sums[name].sum() for name in PHASES))
    of_phases = [names.index(name) for name in PHASES]
    counted = of_phases + ([names.index("device")] if "device" in names else [])
    figures, calls = columns, own[names.index("calls")].tolist()
    time, self_time = (values[of_phases].sum(axis=0).tolist() for values in (total, own))
    works: list[bool] = np.any(own[counted], axis=0).tolist()
    tells_flops, found = counts_flops(trace), []
    for at in range(len(nodes) + len(WITHOUT_MODULE)):
        if at < len(nodes):
            node = nodes[at]
            record: Record = {"path": node.path, "name": node.name, "type": node.type, "depth": node.depth}
        elif works[at]:
            record = {"path": "", "name": WITHOUT_MODULE[at - len(nodes)], "type": "", "depth": 0}
        else:
            continue
        record |= dict(zip(names, figures[at], strict=True))
        record |= {"time": time[at], "self": self_time[at], "share": time[at] / step if step else 0.0}
        record["calls"] = whole(calls[at])
        record["flops"] = at_least(whole(record["flops"]), unknown[at]) if tells_flops else None
        record["flops_unknown"] = sorted(unknown[at])
        found.append(record)
    return found


def _flat(trace: Trace) -> tuple[list[ModuleNode], list[int]]:
    """The nodes of the module tree, parents first, and the place of the parent of each; -1 for none."""
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
    return nodes, parents


def _unknown(trace: Trace, node_of: npt.NDArray[np.int64]) -> list[frozenset[str]]:
    """The ops of every node itself whose FLOPs are unknown."""
    found = [frozenset[str]()] * (int(node_of.max(initial=-1)) + 1)
    for row, ops in unknown_by_module(trace, step_totals(trace))["flops"].items():
        if node_of[row] >= 0:
            found[node_of[row]] = found[node_of[row]] | ops
    return found
