"""Where the steps of a loop went: rows by module, by op and by step. All figures are means over the active steps.

Times are host time; those of devices, in columns of their own, are the times of kernels. Forward is the time in module calls,
the Python code of the modules included; recomputation, backward and optimizer are the self times of the ops that ran in them,
joined to the module they worked for. So self times are disjoint, a module's total is the sum of the self times below it, and
what belongs to no module is a row of its own.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from torchprof.analysis.gpu.kernels import has_kernels
from torchprof.analysis.model.module_tree import OUTSIDE, ModuleNode, module_tree, modules_inside
from torchprof.analysis.time.totals import StepTotals, step_totals
from torchprof.trace.schema import DTYPE_NAMES, Phase
from torchprof.trace.trace import Trace

__all__ = ["DEVICE_PHASES", "Record", "module_records", "op_records", "step_records"]

Record = dict[str, Any]
"""One row: values by column name. None where a figure is not known."""
Floats = npt.NDArray[np.float64]

DEVICE_PHASES: Final = {
    "device_forward": Phase.FORWARD,
    "device_recompute": Phase.RECOMPUTATION,
    "device_backward": Phase.BACKWARD,
    "device_optimizer": Phase.OPTIMIZER,
    "device_other": Phase.OTHER,
}
"""Columns of device time, and the phase of each."""

_MODULE_SUMS: Final = ("calls forward recompute backward optimizer flops_forward flops_backward flops bytes allocated").split()


def module_records(trace: Trace) -> list[Record]:
    """One record per place in the module tree, parents first, and one for what is outside.

    Keys: ``path name type depth calls``; ``forward recompute backward optimizer time`` in nanoseconds, with everything below;
    ``forward_self recompute_self backward_self optimizer_self self`` without; ``spread`` (standard deviation of time over
    steps); ``share`` of the time of all; ``flops_forward flops_backward flops macs bytes allocated`` with everything below;
    ``params`` of its own. Where a device worked, also ``device`` (time of kernels) and, of it, ``device_forward
    device_recompute device_backward device_optimizer device_other``, and ``kernels``, with everything below; ``device_self``
    without; ``device_share`` of the device time of all.
    """
    totals = step_totals(trace)
    own = _own_by_module(trace, totals)
    roots = module_tree(trace)
    records: list[Record] = []
    whole = {"share": sum(own[name].sum() for name in ("forward", "recompute", "backward", "optimizer")) / totals.steps}
    if "device" in own:
        whole["device_share"] = own["device"].sum() / totals.steps
    outside = {name: values[-1] for name, values in own.items()}

    def add(place: ModuleNode) -> dict[str, Floats]:
        at = len(records)
        records.append({})
        mine = {name: values[place.modules].sum(axis=0) for name, values in own.items()}
        below = [add(child) for child in place.children]
        total = {name: mine[name] + sum(child[name] for child in below) for name in own}
        records[at] = _module_record(totals, mine, total, whole)
        info = place.info
        records[at].update(path=place.path, name=place.name, type=place.type, depth=place.depth)
        records[at]["params"] = sum(p.numel for p in info.parameters if p.owner is None) if info is not None else 0
        return total

    for root in roots:
        add(root)
    if any(outside[name].any() for name in ("forward", "recompute", "backward", "optimizer", "device") if name in outside):
        record = _module_record(totals, outside, outside, whole)
        records.append({**record, "path": "", "name": OUTSIDE, "type": "", "depth": 0, "params": 0})
    return records


def _own_by_module(trace: Trace, totals: StepTotals) -> dict[str, Floats]:
    """Every figure of a module without what is below it, by row of ``trace.modules`` (the last: no module) and step."""
    ops, calls = totals.ops, totals.calls
    count = len(trace.modules) + 1
    of_op = np.where(ops["module"] >= 0, ops["module"], count - 1)

    def op_sum(values: npt.ArrayLike, *which: Phase) -> Floats:
        mask = np.isin(ops["phase"], which) if which else np.ones(len(ops), dtype=np.bool_)
        return totals.sums(of_op[mask], count, np.asarray(values)[mask], ops["step"][mask])

    forward_calls = calls[calls["recomputed"] == 0]
    own = {
        "calls": totals.sums(forward_calls["module"], count, forward_calls["count"], forward_calls["step"]),
        "forward": totals.sums(forward_calls["module"], count, forward_calls["self_time"], forward_calls["step"]),
        "recompute": op_sum(ops["self_time"], Phase.RECOMPUTATION),
        "backward": op_sum(ops["self_time"], Phase.BACKWARD),
        "optimizer": op_sum(ops["self_time"], Phase.OPTIMIZER),
        "flops_forward": op_sum(totals.op_flops, Phase.FORWARD),
        "flops_backward": op_sum(totals.op_flops, Phase.BACKWARD),
        "flops": op_sum(totals.op_flops),
        "bytes": op_sum(totals.op_bytes),
        "allocated": op_sum(ops["allocated"]),
    }
    # The time of a module is that of its calls; outside modules there are only ops.
    own["forward"][-1] = op_sum(ops["self_time"], Phase.FORWARD)[-1]
    return own | _device_by_module(totals, count) if has_kernels(trace) else own


def _device_by_module(totals: StepTotals, count: int) -> dict[str, Floats]:
    kernels = totals.kernels
    module = np.where(kernels["module"] >= 0, kernels["module"], count - 1)
    own = {
        "device": totals.sums(module, count, kernels["time"], kernels["step"]),
        "kernels": totals.sums(module, count, kernels["count"], kernels["step"]),
    }
    for name, phase in DEVICE_PHASES.items():
        mask = kernels["phase"] == phase
        own[name] = totals.sums(module[mask], count, kernels["time"][mask], kernels["step"][mask])
    return own


def _module_record(totals: StepTotals, mine: dict[str, Floats], total: dict[str, Floats], whole: dict[str, float]) -> Record:
    def mean(values: Floats) -> float:
        return float(totals.mean(values[np.newaxis])[0])

    record: Record = {name: mean(total[name]) for name in _MODULE_SUMS}
    record["calls"] = mean(mine["calls"])
    for name in ("forward", "recompute", "backward", "optimizer"):
        record[f"{name}_self"] = mean(mine[name])
    time = sum(total[name] for name in ("forward", "recompute", "backward", "optimizer"))
    record["time"] = mean(np.asarray(time))
    record["self"] = sum(record[f"{name}_self"] for name in ("forward", "recompute", "backward", "optimizer"))
    record["spread"] = _known(totals.spread(np.asarray(time)[np.newaxis])[0])
    record["share"] = record["time"] / whole["share"] if whole["share"] else 0.0
    record["macs"] = record["flops"] / 2
    if "device" in mine:
        record |= {name: mean(total[name]) for name in ("device", *DEVICE_PHASES, "kernels")}
        record["device_self"] = mean(mine["device"])
        record["device_share"] = record["device"] / whole["device_share"] if whole["device_share"] else 0.0
    return record


def op_records(trace: Trace, *, shapes: bool = False, phase: Phase | None = None, module: str | None = None) -> list[Record]:
    """One record per op name, or per name and shapes.

    Keys: ``name``; ``shapes`` and ``dtypes`` of the inputs (with ``shapes=True``); ``calls``; ``time self mean min max`` in
    nanoseconds, the last three of one call; ``spread`` (standard deviation of self time over steps); ``share`` of all self
    time; ``flops macs bytes``; ``intensity`` (FLOPs per byte), ``flop_rate`` and ``byte_rate`` (per second); ``allocated``.
    Where a device worked, also ``device`` and ``device_self``, the time of kernels that the op asked for, with and without
    those of ops inside it, ``device_share`` of all ``device_self``, and ``kernels``, how many it asked for itself; rates are
    then against ``device``, and None for an op that asked for nothing.

    Args:
        phase: only ops that ran in this phase.
        module: only ops that worked for the module with this path, or for one below it.
    """
    totals = step_totals(trace)
    ops = totals.ops
    mask = np.ones(len(ops), dtype=np.bool_)
    if phase is not None:
        mask &= ops["phase"] == phase
    if module is not None:
        mask &= np.isin(ops["module"], modules_inside(trace, module))
    name_of = trace.signatures["name"]
    signature = ops["signature"][mask]
    key = signature if shapes else name_of[signature]
    keys, example, group = np.unique(key, return_index=True, return_inverse=True)
    step = ops["step"][mask]

    def per_step(values: Any) -> Floats:
        return totals.mean(totals.sums(group, len(keys), values[mask], step))

    calls, time, own = per_step(ops["count"]), per_step(ops["time"]), per_step(ops["self_time"])
    spread = totals.spread(totals.sums(group, len(keys), ops["self_time"][mask], step))
    flops, moved, allocated = per_step(totals.op_flops), per_step(totals.op_bytes), per_step(ops["allocated"])
    least, most = np.full(len(keys), np.iinfo(np.int64).max), np.zeros(len(keys), dtype=np.int64)
    np.minimum.at(least, group, ops["min"][mask])
    np.maximum.at(most, group, ops["max"][mask])
    whole = own.sum()
    columns = {"device": "device_time", "device_self": "device_self", "kernels": "kernels"} if has_kernels(trace) else {}
    device = {name: per_step(ops[column]) for name, column in columns.items()}
    busy = device["device_self"].sum() if device else 0.0
    worked = device.get("device", time)
    records = []
    for row in range(len(keys)):
        record: Record = {
            "name": trace.strings[int(name_of[signature[example[row]]])],
            "calls": float(calls[row]),
            "time": float(time[row]),
            "self": float(own[row]),
            "mean": float(time[row] / calls[row]),
            "min": int(least[row]),
            "max": int(most[row]),
            "spread": _known(spread[row]),
            "share": float(own[row] / whole) if whole else 0.0,
            "flops": float(flops[row]),
            "macs": float(flops[row]) / 2,
            "bytes": float(moved[row]),
            "intensity": float(flops[row] / moved[row]) if moved[row] and flops[row] else None,
            "flop_rate": float(flops[row] / worked[row] * 1e9) if worked[row] and flops[row] else None,
            "byte_rate": float(moved[row] / worked[row] * 1e9) if worked[row] and moved[row] else None,
            "allocated": float(allocated[row]),
        }
        if device:
            record |= {name: float(values[row]) for name, values in device.items()}
            record["device_share"] = record["device_self"] / float(busy) if busy else 0.0
        if shapes:
            record["shapes"], record["dtypes"] = _operands(trace, int(keys[row]))
        records.append(record)
    return records


def _operands(trace: Trace, signature: int) -> tuple[list[list[int]], list[str]]:
    row = trace.signatures[signature]
    first = int(row["inputs"])
    tensors = trace.tensors[trace.operands[first : first + int(row["n_inputs"])]]
    shapes = [list(trace.shape(int(shape))) for shape in tensors["shape"]]
    return shapes, [DTYPE_NAMES[dtype] for dtype in tensors["dtype"].tolist()]


def step_records(trace: Trace) -> list[Record]:
    """One record per step, warm-up steps included and marked.

    Keys: ``step warmup``; ``time`` and, of it, ``forward recompute backward optimizer other`` in nanoseconds; ``ops``;
    ``flops``; ``allocated peak held`` in bytes: handed out during the step, the most held, and held at its end, of what the
    recording saw handed out. The parts are None in an aggregated trace, which keeps them over all steps only. Where a device
    worked, also ``device``, the time in which any of them worked for the step, and ``kernels``, those it asked for.
    """
    steps = trace.steps
    records: list[Record] = [
        {
            "step": int(step["number"]),
            "warmup": bool(step["warmup"]),
            "time": int(step["end"] - step["start"]),
            **dict.fromkeys(("forward", "recompute", "backward", "optimizer", "other", "ops", "flops")),
            "allocated": int(step["allocated"]),
            "peak": int(step["peak"]),
            "held": int(step["held"]),
        }
        for step in steps
    ]
    if steps["kernels"].any() or steps["busy"].any():
        for record, step in zip(records, steps, strict=True):
            record |= {"device": int(step["busy"]), "kernels": int(step["kernels"])}
    if trace.facts.get("aggregate") or not records:
        return records
    all_active = steps.copy()
    all_active["warmup"] = 0
    totals = step_totals(replace(trace, steps=all_active))
    ops, calls = totals.ops, totals.calls

    def per_step(rows: Any, values: Any, mask: Any) -> Floats:
        step = rows["step"][mask]
        sums: Floats = totals.sums(np.zeros(len(step)), 1, values[mask], step)[0]
        return sums

    everything_ran = np.ones(len(ops), dtype=np.bool_)
    loss = (ops["phase"] == Phase.FORWARD) & (ops["module"] < 0)
    parts = {"forward": per_step(calls, calls["self_time"], calls["recomputed"] == 0) + per_step(ops, ops["self_time"], loss)}
    for name, phase in (("recompute", Phase.RECOMPUTATION), ("backward", Phase.BACKWARD), ("optimizer", Phase.OPTIMIZER)):
        parts[name] = per_step(ops, ops["self_time"], ops["phase"] == phase)
    counts = per_step(ops, ops["count"], everything_ran)
    flops = per_step(ops, totals.op_flops, everything_ran)
    for row, record in enumerate(records):
        record.update({name: float(values[row]) for name, values in parts.items()})
        # Parts on several threads may take longer than the step.
        record["other"] = max(0.0, record["time"] - sum(float(values[row]) for values in parts.values()))
        record["ops"], record["flops"] = int(counts[row]), float(flops[row])
    return records


def _known(value: Any) -> float | None:
    return None if np.isnan(value) else float(value)
