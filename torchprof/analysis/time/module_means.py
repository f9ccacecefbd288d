"""Means of every module over steps, as `module_records` has them: fewer figures, for tables of hundreds of traces."""

from __future__ import annotations

from torchprof.analysis.model.flops import at_least
from torchprof.analysis.records import Record, whole
from torchprof.analysis.time.module_figures import PHASES, ModuleFigures, module_figures, with_below
from torchprof.analysis.time.module_records import WITHOUT_MODULE
from torchprof.trace.trace import Trace

__all__ = ["module_means", "unknown_below"]


def module_means(trace: Trace) -> list[Record]:
    """One record for every node of the module tree, parents first, and for what belongs to no module.

    Keys are some of those of `module_records`, with the same values: ``path name type depth calls time self share``, the times
    by phase, ``flops`` and ``flops_unknown`` and, where kernels were recorded, ``device``.
    """
    of = module_figures(trace)
    tree, total, unknown = of.tree, with_below(of.tree, of.own), unknown_below(of)
    of_phases = [of.names.index(name) for name in PHASES]
    time, self_time = (values[of_phases].sum(axis=0).tolist() for values in (total, of.own))
    figures, calls = total.T.tolist(), of.own[of.names.index("calls")].tolist()
    found = []
    for at in of.shown:
        if at < len(tree):
            record: Record = {"path": tree.paths[at], "name": tree.names[at], "type": tree.types[at], "depth": tree.depths[at]}
        else:
            record = {"path": "", "name": WITHOUT_MODULE[at - len(tree)], "type": "", "depth": 0}
        record |= dict(zip(of.names, figures[at], strict=True))
        record |= {"time": time[at], "self": self_time[at], "share": time[at] / of.step if of.step else 0.0}
        record["calls"] = whole(calls[at])
        record["flops"] = at_least(whole(record["flops"]), unknown[at]) if of.counts_flops else None
        record["flops_unknown"] = sorted(unknown[at])
        found.append(record)
    return found


def unknown_below(of: ModuleFigures) -> list[frozenset[str]]:
    """The ops of every node whose FLOPs are unknown, with those of all nodes below."""
    found = list(of.unknown)
    if any(found):
        for at in range(len(of.tree) - 1, 0, -1):
            if of.tree.parents[at] >= 0:
                found[of.tree.parents[at]] |= found[at]
    return found
