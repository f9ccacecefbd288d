"""Where the time of a training loop went, by module: the records of the table by module.

All figures are means over the active steps. Times are host time; device time, in columns of its own, is the time of kernels.
They are self times, of ops and, for the Python code of modules, of module calls, each in the phase that it ran in. Ops of
backward are attributed to the module whose forward op they differentiate, those of an optimizer to the module whose parameter
they update. So self times do not overlap, the total of a module is the sum of the self times of itself and of all modules below
it, and what belongs to no module has records of its own: `OUTSIDE`, of phases of the model; waiting for data; and what is left
of the step. Where no threads work at the same time, the records add up to the step.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Final

import numpy as np
import numpy.typing as npt

from torchprof.analysis.gpu.backend import has_kernels
from torchprof.analysis.model.flops import at_least, counts_flops, unknown_op
from torchprof.analysis.model.module_tree import OUTSIDE, ModuleNode, module_tree, nodes_by_path
from torchprof.analysis.records import Record, none_if_nan, whole
from torchprof.analysis.steps import PHASE_COLUMNS, step_times
from torchprof.analysis.time.totals import StepTotals, op_bytes, step_totals
from torchprof.trace.schema import Phase, Rows
from torchprof.trace.trace import Trace

__all__ = [
    "DATA",
    "DEVICE_PHASES",
    "OTHER",
    "WITHOUT_MODULE",
    "module_records",
    "sums_by_module",
    "unknown_by_module",
]

Floats = npt.NDArray[np.float64]

DEVICE_PHASES: Final = {
    "device_forward": Phase.FORWARD,
    "device_recompute": Phase.RECOMPUTATION,
    "device_backward": Phase.BACKWARD,
    "device_optimizer": Phase.OPTIMIZER,
    "device_data": Phase.DATA,
    "device_other": Phase.OTHER,
}
"""Columns of device time, and the phase of each."""

Unknown = dict[str, frozenset[str]]

_FLOPS: Final = {"flops_forward": (Phase.FORWARD,), "flops_backward": (Phase.BACKWARD,), "flops": ()}
"""Columns of FLOPs, and the phases of each; of ``flops``, all."""
_PHASES: Final = (*PHASE_COLUMNS, "other")
_SELF: Final = ("forward", "recompute", "backward", "optimizer")
_COUNTS: Final = ("flops_forward", "flops_backward", "flops", "bytes", "allocated")

DATA: Final = "data"
"""Name of the row for the time in which the program waited for a ``DataLoader``."""
OTHER: Final = "other"
"""Name of the row for what is left of a step: Python, and ops outside of all phases."""
WITHOUT_MODULE: Final = (OUTSIDE, DATA, OTHER)
_ROW_OF_PHASE: Final = np.array([WITHOUT_MODULE.index({Phase.DATA: DATA, Phase.OTHER: OTHER}.get(p, OUTSIDE)) for p in Phase])


def module_records(trace: Trace, *, by_step: bool = False) -> list[Record]:
    """One record for every node of the module tree, parents first, and up to three for what belongs to no module.

    Modules of one class that the model does not know by name and that were called by the same module are one record, such as
    those that its forward makes anew every time.

    Keys: ``path name type depth calls``; ``forward recompute backward optimizer data other time`` in nanoseconds, with
    everything below; ``forward_self recompute_self backward_self optimizer_self self`` without; ``spread`` (standard deviation
    of time over steps); ``share`` of the step; ``flops_forward flops_backward flops bytes allocated`` with everything below;
    ``flops_unknown`` and the like: the ops in them whose FLOPs are unknown, if any; then the figure is a lower bound, or None.
    ``params`` of its own; ``defined``, where its class is. Where kernels were recorded, also ``device`` (time of kernels) and,
    of it, ``device_forward device_recompute device_backward device_optimizer device_data device_other``, and ``kernels``, with
    everything below; ``device_self`` without; ``device_share`` of the device time of all.

    Args:
        by_step: add ``by_step``, the times of every step by name, ``[steps]``, where the trace knows single steps.
    """
    totals = step_totals(trace)
    of_modules = sums_by_module(trace, totals)
    records: list[Record] = []
    times = step_times(trace)
    time = float(times.time.sum()) if times is not None else sum(float(of_modules[name].sum()) for name in _PHASES)
    wholes = {"share": time / totals.steps}
    if "device" in of_modules:
        wholes["device_share"] = of_modules["device"].sum() / totals.steps
    unknown_in = unknown_by_module(trace, totals)

    def add(node: ModuleNode) -> tuple[dict[str, Floats], Unknown]:
        row = len(records)
        records.append({})  # parents come first
        modules = node.modules
        own = {
            name: values[modules[0]] if len(modules) == 1 else values[modules].sum(axis=0)
            for name, values in of_modules.items()
        }
        below = [add(child) for child in nodes_by_path(node.children)]
        total = {name: own[name] + sum(child[name] for child, _ in below) for name in of_modules} if below else own
        unknown = {
            name: frozenset().union(*(mine.get(module, ()) for module in node.modules), *(names[name] for _, names in below))
            for name, mine in unknown_in.items()
        }
        records[row] = {
            **{"name": node.name, "path": node.path, "type": node.type, "depth": node.depth},
            **_module_record(trace, totals, own, total, wholes),
            **(_times_by_step(totals, own, total) if by_step else {}),
            **_bounds(trace, total, unknown, totals),
            "params": _own_parameters(trace, node),
            "defined": node.info.defined if node.info is not None else None,
        }
        return total, unknown

    for root in nodes_by_path(module_tree(trace)):
        add(root)
    for index, name in enumerate(WITHOUT_MODULE, start=len(trace.modules)):
        mine = {name: values[index] for name, values in of_modules.items()}
        if any(mine[name].any() for name in (*_PHASES, "device") if name in mine):
            unknown = {name: ops.get(index, frozenset()) for name, ops in unknown_in.items()}
            record = _module_record(trace, totals, mine, mine, wholes) | _bounds(trace, mine, unknown, totals)
            record |= _times_by_step(totals, mine, mine) if by_step else {}
            records.append({"name": name, "path": "", "type": "", "depth": 0, **record, "params": 0, "defined": None})
    return records


def _own_parameters(trace: Trace, node: ModuleNode) -> int | None:
    """Elements of the parameters of a module itself; None where the trace knows its modules by their calls alone."""
    if trace.facts.get("parameters") is False:
        return None
    return sum(p.numel for p in node.info.parameters if p.owner is None) if node.info is not None else 0


def unknown_by_module(trace: Trace, totals: StepTotals) -> dict[str, dict[int, frozenset[str]]]:
    """By figure and row of ``trace.modules`` (beyond them: no module), the ops whose FLOPs are unknown."""
    found: dict[str, dict[int, frozenset[str]]] = {name: {} for name in _FLOPS}
    for row in np.flatnonzero(totals.op_unknown).tolist():
        signature, module, phase = (int(totals.ops[name][row]) for name in ("signature", "module", "phase"))
        for name, phases in _FLOPS.items():
            if not phases or phase in phases:
                of_module = module if module >= 0 else len(trace.modules) + int(_ROW_OF_PHASE[phase])
                found[name][of_module] = found[name].get(of_module, frozenset()) | {unknown_op(trace, signature)}
    return found


def _bounds(trace: Trace, total: dict[str, Floats], unknown: Unknown, totals: StepTotals) -> Record:
    """FLOPs, None where nothing is known, and what is unknown in them."""
    record: Record = {}
    for name in _FLOPS:
        mean = float(totals.mean(total[name][np.newaxis])[0])
        record[name] = at_least(whole(mean), unknown[name]) if counts_flops(trace) else None
        record[f"{name}_unknown"] = sorted(unknown[name])
    return record


def sums_by_module(trace: Trace, totals: StepTotals, counts: Collection[str] = _COUNTS) -> dict[str, Floats]:
    """Every figure of a module without those below it, by row of ``trace.modules`` (then `WITHOUT_MODULE`) and step.

    Args:
        counts: which are wanted of those that are no times, and not the calls.
    """
    ops, calls = totals.ops, totals.calls
    count = len(trace.modules) + len(WITHOUT_MODULE)
    module_of_op = _row_of(ops, trace)

    def op_sum(values: npt.ArrayLike, *phases: Phase) -> Floats:
        mask = np.isin(ops["phase"], phases) if phases else np.ones(len(ops), dtype=np.bool_)
        return totals.sums(module_of_op[mask], count, np.asarray(values)[mask])

    def call_sum(column: str, mask: npt.NDArray[np.bool_]) -> Floats:
        return totals.sums(calls["module"][mask], count, calls[column][mask], calls["step"][mask])

    by_phase = np.where(ops["phase"] <= max(Phase), module_of_op * len(Phase) + ops["phase"], -1)
    own = totals.sums_of_self_times(by_phase, count * len(Phase))
    sums = {
        "calls": call_sum("count", calls["phase"] != Phase.RECOMPUTATION),
        **{
            name: own[phase :: len(Phase)] + call_sum("self_time", calls["phase"] == phase)
            for name, phase in PHASE_COLUMNS.items()
        },
        "other": own[Phase.OTHER :: len(Phase)],
        **{name: op_sum(totals.op_flops, *phases) for name, phases in _FLOPS.items() if name in counts},
        **({"bytes": op_sum(op_bytes(trace, totals))} if "bytes" in counts else {}),
        **({"allocated": op_sum(ops["allocated"])} if "allocated" in counts else {}),
    }
    if (times := step_times(trace)) is not None and len(times.time):
        # The program waits for data, and runs Python, also where no op is open; and some Python in the step of an optimizer is
        # that of a closure.
        for row, name in ((count - 3, "optimizer"), (count - 2, "data"), (count - 1, "other")):
            of_modules = sums[name][: len(trace.modules)].sum(axis=0)
            whole_phase = _by_step(times.by_phase[PHASE_COLUMNS.get(name, Phase.OTHER)], totals)
            sums[name][row] = np.maximum(0, whole_phase - of_modules)
    return sums | _device_sums_by_module(trace, totals, count) if has_kernels(trace) else sums


def _by_step(values: npt.NDArray[np.int64], totals: StepTotals) -> Floats:
    """Values of active steps as `StepTotals.sums` has them."""
    return (values if totals.by_step else values.sum(keepdims=True)).astype(np.float64)


def _row_of(rows: Rows, trace: Trace) -> npt.NDArray[np.int64]:
    """The row of ``trace.modules`` or, beyond them, of `WITHOUT_MODULE` that sums of ops or kernels belong to."""
    phase = np.where(rows["phase"] <= max(Phase), rows["phase"], int(Phase.OTHER))
    return np.where(rows["module"] >= 0, rows["module"], len(trace.modules) + _ROW_OF_PHASE[phase])


def _device_sums_by_module(trace: Trace, totals: StepTotals, count: int) -> dict[str, Floats]:
    kernels = totals.kernels
    module = _row_of(kernels, trace)
    sums = {
        "device": totals.sums(module, count, kernels["time"], kernels["step"]),
        "kernels": totals.sums(module, count, kernels["count"], kernels["step"]),
    }
    for name, phase in DEVICE_PHASES.items():
        mask = kernels["phase"] == phase
        sums[name] = totals.sums(module[mask], count, kernels["time"][mask], kernels["step"][mask])
    return sums


def _module_record(
    trace: Trace, totals: StepTotals, own: dict[str, Floats], total: dict[str, Floats], wholes: dict[str, float]
) -> Record:
    def mean(values: Floats) -> float:
        return float(values.sum()) / totals.steps

    record: Record = {"calls": whole(mean(own["calls"])), **{name: mean(total[name]) for name in _PHASES}}
    record |= {name: whole(mean(total[name])) for name in _COUNTS}
    for name in _SELF:
        record[f"{name}_self"] = mean(own[name])
    time = sum(total[name] for name in _PHASES)
    record["time"] = mean(np.asarray(time))
    record["self"] = mean(np.asarray(sum(own[name] for name in _PHASES)))
    record["spread"] = none_if_nan(totals.spread(np.asarray(time)[np.newaxis])[0])
    record["share"] = record["time"] / wholes["share"] if wholes["share"] else 0.0
    record["bytes"] = None if math.isnan(record["bytes"]) or not counts_flops(trace) else record["bytes"]
    record["allocated"] = None if trace.facts.get("memory") is False else record["allocated"]
    if "device" in own:
        record |= {name: mean(total[name]) for name in ("device", *DEVICE_PHASES)}
        record["kernels"] = whole(mean(total["kernels"]))
        record["device_self"] = mean(own["device"])
        record["device_share"] = record["device"] / wholes["device_share"] if wholes["device_share"] else 0.0
    return record


def _times_by_step(totals: StepTotals, own: dict[str, Floats], total: dict[str, Floats]) -> Record:
    """The times of a record in every step."""
    if not totals.by_step:
        return {}
    times = {name: total[name] for name in (*_PHASES, "device", *DEVICE_PHASES) if name in total}
    times["time"] = np.asarray(sum(total[name] for name in _PHASES))
    times["self"] = np.asarray(sum(own[name] for name in _PHASES))
    if "device" in own:
        times["device_self"] = own["device"]
    return {"by_step": times}
