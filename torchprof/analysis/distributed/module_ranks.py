"""What every module cost across ranks: the records of the table by module, joined.

Ranks whose modules are the same are joined as arrays, and what differs is looked for once for all of these.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from torchprof.analysis.model.module_tree import OUTSIDE
from torchprof.analysis.records import Record, whole
from torchprof.analysis.steps import PHASE_COLUMNS
from torchprof.analysis.time.module_figures import PHASES, ModuleFigures, module_figures, with_below
from torchprof.analysis.time.module_means import unknown_below
from torchprof.analysis.time.module_records import DATA, OTHER, WITHOUT_MODULE
from torchprof.trace.ranks import Ranks

__all__ = ["MEANS", "module_ranks"]

LAST: Final = (OUTSIDE, DATA, OTHER)
"""What belongs to no module stands at the end."""
MEANS: Final = ("calls", "self", *PHASE_COLUMNS, "other", "device", "flops")
"""Figures of which a row has the mean over ranks, beside its time."""

Floats = npt.NDArray[np.float64]


class Alike:
    """Ranks whose modules are the same.

    Attributes:
        numbers: of the ranks.
        figures: ``[ranks, nodes]`` by name, with all below but for ``calls`` and ``self``; NaN: not known.
        unknown: of every node, the ops of any of these ranks whose FLOPs are unknown.
        places: depth, path, name and type of the nodes that are shown, by node.
    """

    def __init__(self, numbers: Sequence[int], of_ranks: Sequence[ModuleFigures]) -> None:
        first = of_ranks[0]
        tree, names = first.tree, first.names
        own = np.array([each.own for each in of_ranks])
        total = with_below(tree, own)
        of_phases = [names.index(name) for name in PHASES]
        self.numbers = tuple(numbers)
        self.figures: dict[str, Floats] = {name: total[:, row] for row, name in enumerate(names)}
        self.figures["calls"] = own[:, names.index("calls")]
        self.figures |= {name: values[:, of_phases].sum(axis=1) for name, values in (("time", total), ("self", own))}
        below = [unknown_below(each) for each in of_ranks]
        self.unknown = [frozenset().union(*ops) for ops in zip(*below, strict=True)]
        if any(self.unknown):
            is_unknown = np.array([[bool(ops) for ops in each] for each in below])
            self.figures["flops"] = np.where(is_unknown & (self.figures["flops"] == 0), np.nan, self.figures["flops"])
        if not first.counts_flops:
            self.figures["flops"] = np.full_like(self.figures["flops"], np.nan)
        self.places = {
            at: (tree.depths[at], tree.paths[at], tree.names[at], tree.types[at])
            if at < len(tree)
            else (0, "", WITHOUT_MODULE[at - len(tree)], "")
            for at in first.shown
        }


@dataclass(slots=True)
class Node:
    """A module, and which node it is of the ranks that have it: those of each ``Alike``, by its place among them."""

    of: dict[int, int] = field(default_factory=dict)
    children: dict[tuple[str, str, int], Node] = field(default_factory=dict)


def module_ranks(ranks: Ranks) -> list[Record]:
    """One record for every module that any rank has, parents first, and for what belongs to none.

    Keys: ``path name type depth``; ``ranks``, how many have it; of these the mean of ``time`` of a step and of ``calls self
    forward recompute backward optimizer data other``, of ``device`` and ``flops`` where all know them; ``share``, of the mean
    step of all ranks; ``slowest``, the most time, and ``slowest_rank``; ``fastest`` and ``fastest_rank``; ``rank_spread``, the
    difference between the two.
    """
    found: dict[object, tuple[list[int], list[ModuleFigures]]] = {}
    steps = []
    for number, trace in zip(ranks.numbers, ranks, strict=True):
        figures = module_figures(trace)
        if figures.own[[figures.names.index(name) for name in PHASES]].any() and figures.step:
            steps.append(figures.step)
        numbers, of_ranks = found.setdefault((figures.tree, figures.names, figures.shown, figures.counts_flops), ([], []))
        numbers.append(number)
        of_ranks.append(figures)
    alike, root = [Alike(*each) for each in found.values()], Node()
    for row, each in enumerate(alike):
        _add(root, row, each)
    step = float(np.mean(steps)) if steps else 0.0
    records: list[Record] = []
    _walk(root, alike, step, records)
    return records


def _add(root: Node, row: int, alike: Alike) -> None:
    """Put the modules of some ranks, parents first, into the tree."""
    above = [root]
    for at, (depth, _, name, type) in alike.places.items():
        del above[depth + 1 :]
        same = 0  # modules that are not registered may have one name
        while (key := (name, type, same)) in above[-1].children and row in above[-1].children[key].of:
            same += 1
        node = above[-1].children.setdefault(key, Node())
        node.of[row] = at
        above.append(node)


def _walk(node: Node, alike: Sequence[Alike], step: float, found: list[Record]) -> None:
    children = list(node.children.values())
    for child in sorted(children, key=lambda each: _is_last(each, alike)):  # others keep their order
        found.append(_joined(child, alike, step))
        _walk(child, alike, step, found)


def _is_last(node: Node, alike: Sequence[Alike]) -> int:
    row, at = next(iter(node.of.items()))
    depth, path, name, _ = alike[row].places[at]
    return 1 + LAST.index(name) if not path and not depth and name in LAST else 0


def _joined(node: Node, alike: Sequence[Alike], step: float) -> Record:
    depth, path, name, type = next(alike[row].places[at] for row, at in node.of.items())
    order = sorted((number, row, rank) for row in node.of for rank, number in enumerate(alike[row].numbers))
    times, count = _of_ranks(node, alike, order, "time"), len(order)
    slowest = max(range(count), key=times.__getitem__)  # of equal ones the first
    fastest = min(range(count - 1, -1, -1), key=times.__getitem__)
    time = sum(times) / count
    means = {each: _mean(node, alike, order, each) for each in MEANS}
    return {
        **{"path": path, "name": name, "type": type, "depth": depth},
        "ranks": count,
        "time": time,
        "share": time / step if step else 0.0,
        **{each: mean for each, mean in means.items() if mean is not None or each == "flops"},
        "flops_unknown": sorted(frozenset().union(*(alike[row].unknown[at] for row, at in node.of.items()))),
        "slowest": times[slowest],
        "slowest_rank": order[slowest][0],
        "fastest": times[fastest],
        "fastest_rank": order[fastest][0],
        "rank_spread": times[slowest] - times[fastest],
    }


def _of_ranks(node: Node, alike: Sequence[Alike], order: Sequence[tuple[int, int, int]], name: str) -> list[float]:
    """A figure of the ranks that have the module, in order."""
    columns: dict[int, list[float]] = {row: alike[row].figures[name][:, at].tolist() for row, at in node.of.items()}
    if len(columns) == 1:
        return columns.popitem()[1]
    return [columns[row][rank] for _, row, rank in order]


def _mean(node: Node, alike: Sequence[Alike], order: Sequence[tuple[int, int, int]], name: str) -> float | None:
    """The mean of a figure; None where a rank does not know it."""
    if any(name not in alike[row].figures for row in node.of):
        return None
    mean = sum(_of_ranks(node, alike, order, name)) / len(order)
    if np.isnan(mean):
        return None
    return whole(mean) if name in ("calls", "flops") else mean
