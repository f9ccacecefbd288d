"""Where the time of a training loop went, by module: the records of the table by module.

All figures are means over the active steps. Times are host time; device time, in columns of its own, is the time of kernels.
Forward is the time in module calls, with the Python code of the modules. Recomputation, backward and optimizer are the self
times of the ops that ran in these phases, attributed to the module whose forward op they differentiate or whose parameter they
update. So self times do not overlap, the total of a module is the sum of the self times of itself and of all modules below it,
and what belongs to no module has a record of its own.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from torchprof.analysis.gpu.backend import has_kernels
from torchprof.analysis.model.flops import at_least, counts_flops, unknown_op
from torchprof.analysis.model.module_tree import OUTSIDE, ModuleNode, module_tree
from torchprof.analysis.records import Record, none_if_nan
from torchprof.analysis.time.totals import StepTotals, step_totals
from torchprof.trace.schema import Phase
from torchprof.trace.trace import Trace

__all__ = ["DEVICE_PHASES", "module_records"]

Floats = npt.NDArray[np.float64]

DEVICE_PHASES: Final = {
    "device_forward": Phase.FORWARD,
    "device_recompute": Phase.RECOMPUTATION,
    "device_backward": Phase.BACKWARD,
    "device_optimizer": Phase.OPTIMIZER,
    "device_other": Phase.OTHER,
}
"""Columns of device time, and the phase of each."""

Unknown = dict[str, frozenset[str]]

_FLOPS: Final = {"flops_forward": (Phase.FORWARD,), "flops_backward": (Phase.BACKWARD,), "flops": ()}
"""Columns of FLOPs, and the phases of each; of ``flops``, all."""
_PHASES: Final = ("forward", "recompute", "backward", "optimizer")
_SUMS: Final = ("calls", *_PHASES, *"flops_forward flops_backward flops bytes allocated".split())


def module_records(trace: Trace) -> list[Record]:
    """One record for every node of the module tree, parents first, and one for what is outside of all modules.

    Keys: ``path name type depth calls``; ``forward recompute backward optimizer time`` in nanoseconds, with everything below;
    ``forward_self recompute_self backward_self optimizer_self self`` without; ``spread`` (standard deviation of time over
    steps); ``share`` of the time of all; ``flops_forward flops_backward flops bytes allocated`` with everything below;
    ``flops_unknown`` and the like: the ops in them whose FLOPs are unknown, if any; then the figure is a lower bound, or None.
    ``params`` of its own. Where kernels were recorded, also ``device`` (time of kernels) and, of it, ``device_forward
    device_recompute device_backward device_optimizer device_other``, and ``kernels``, with everything below; ``device_self``
    without; ``device_share`` of the device time of all.
    """
    totals = step_totals(trace)
    of_modules = _sums_by_module(trace, totals)
    records: list[Record] = []
    all_modules = {"share": sum(of_modules[name].sum() for name in _PHASES) / totals.steps}
    if "device" in of_modules:
        all_modules["device_share"] = of_modules["device"].sum() / totals.steps
    outside = {name: values[-1] for name, values in of_modules.items()}
    unknown_in = _unknown_by_module(trace, totals)

    def add(node: ModuleNode) -> tuple[dict[str, Floats], Unknown]:
        row = len(records)
        records.append({})  # parents come first
        own = {name: values[node.modules].sum(axis=0) for name, values in of_modules.items()}
        below = [add(child) for child in node.children]
        total = {name: own[name] + sum(child[name] for child, _ in below) for name in of_modules}
        unknown = {
            name: frozenset().union(*(mine.get(module, ()) for module in node.modules), *(names[name] for _, names in below))
            for name, mine in unknown_in.items()
        }
        records[row] = _module_record(totals, own, total, all_modules) | _bounds(trace, total, unknown, totals)
        info = node.info
        records[row].update(path=node.path, name=node.name, type=node.type, depth=node.depth)
        records[row]["params"] = sum(p.numel for p in info.parameters if p.owner is None) if info is not None else 0
        return total, unknown

    for root in module_tree(trace):
        add(root)
    if any(outside[name].any() for name in (*_PHASES, "device") if name in outside):
        unknown = {name: mine.get(len(trace.modules), frozenset()) for name, mine in unknown_in.items()}
        record = _module_record(totals, outside, outside, all_modules) | _bounds(trace, outside, unknown, totals)
        records.append({**record, "path": "", "name": OUTSIDE, "type": "", "depth": 0, "params": 0})
    return records


def _unknown_by_module(trace: Trace, totals: StepTotals) -> dict[str, dict[int, frozenset[str]]]:
    """By figure and row of ``trace.modules`` (the last: no module), the ops whose FLOPs are unknown."""
    found: dict[str, dict[int, frozenset[str]]] = {name: {} for name in _FLOPS}
    for row in np.flatnonzero(totals.op_unknown).tolist():
        signature, module, phase = (int(totals.ops[name][row]) for name in ("signature", "module", "phase"))
        for name, phases in _FLOPS.items():
            if not phases or phase in phases:
                of_module = module if module >= 0 else len(trace.modules)
                found[name][of_module] = found[name].get(of_module, frozenset()) | {unknown_op(trace, signature)}
    return found


def _bounds(trace: Trace, total: dict[str, Floats], unknown: Unknown, totals: StepTotals) -> Record:
    """FLOPs, None where nothing is known, and what is unknown in them."""
    record: Record = {}
    for name in _FLOPS:
        mean = float(totals.mean(total[name][np.newaxis])[0])
        record[name] = at_least(mean, unknown[name]) if counts_flops(trace) else None
        record[f"{name}_unknown"] = sorted(unknown[name])
    return record


def _sums_by_module(trace: Trace, totals: StepTotals) -> dict[str, Floats]:
    """Every figure of a module without those below it, by row of ``trace.modules`` (the last: no module) and step."""
    ops, calls = totals.ops, totals.calls
    count = len(trace.modules) + 1
    module_of_op = np.where(ops["module"] >= 0, ops["module"], count - 1)

    def op_sum(values: npt.ArrayLike, *phases: Phase) -> Floats:
        mask = np.isin(ops["phase"], phases) if phases else np.ones(len(ops), dtype=np.bool_)
        return totals.sums(module_of_op[mask], count, np.asarray(values)[mask], ops["step"][mask])

    forward_calls = calls[calls["recomputed"] == 0]
    sums = {
        "calls": totals.sums(forward_calls["module"], count, forward_calls["count"], forward_calls["step"]),
        "forward": totals.sums(forward_calls["module"], count, forward_calls["self_time"], forward_calls["step"]),
        "recompute": op_sum(ops["self_time"], Phase.RECOMPUTATION),
        "backward": op_sum(ops["self_time"], Phase.BACKWARD),
        "optimizer": op_sum(ops["self_time"], Phase.OPTIMIZER),
        **{name: op_sum(totals.op_flops, *phases) for name, phases in _FLOPS.items()},
        "bytes": op_sum(totals.op_bytes),
        "allocated": op_sum(ops["allocated"]),
    }
    # The time of a module is that of its calls; outside of modules there are only ops.
    sums["forward"][-1] = op_sum(ops["self_time"], Phase.FORWARD)[-1]
    return sums | _device_sums_by_module(totals, count) if has_kernels(trace) else sums


def _device_sums_by_module(totals: StepTotals, count: int) -> dict[str, Floats]:
    kernels = totals.kernels
    module = np.where(kernels["module"] >= 0, kernels["module"], count - 1)
    sums = {
        "device": totals.sums(module, count, kernels["time"], kernels["step"]),
        "kernels": totals.sums(module, count, kernels["count"], kernels["step"]),
    }
    for name, phase in DEVICE_PHASES.items():
        mask = kernels["phase"] == phase
        sums[name] = totals.sums(module[mask], count, kernels["time"][mask], kernels["step"][mask])
    return sums


def _module_record(
    totals: StepTotals, own: dict[str, Floats], total: dict[str, Floats], all_modules: dict[str, float]
) -> Record:
    def mean(values: Floats) -> float:
        return float(totals.mean(values[np.newaxis])[0])

    record: Record = {name: mean(total[name]) for name in _SUMS}
    record["calls"] = mean(own["calls"])
    for name in _PHASES:
        record[f"{name}_self"] = mean(own[name])
    time = sum(total[name] for name in _PHASES)
    record["time"] = mean(np.asarray(time))
    record["self"] = sum(record[f"{name}_self"] for name in _PHASES)
    record["spread"] = none_if_nan(totals.spread(np.asarray(time)[np.newaxis])[0])
    record["share"] = record["time"] / all_modules["share"] if all_modules["share"] else 0.0
    record["bytes"] = none_if_nan(record["bytes"])
    if "device" in own:
        record |= {name: mean(total[name]) for name in ("device", *DEVICE_PHASES, "kernels")}
        record["device_self"] = mean(own["device"])
        record["device_share"] = record["device"] / all_modules["device_share"] if all_modules["device_share"] else 0.0
    return record
