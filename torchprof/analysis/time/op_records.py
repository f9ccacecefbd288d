"""Where the time of a training loop went, by op: the records of the table by op.

All figures are means over the active steps.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from torchprof.analysis.gpu.backend import has_kernels
from torchprof.analysis.groups import Groups
from torchprof.analysis.model.flops import at_least, counts_flops, unknown_op
from torchprof.analysis.model.module_tree import modules_inside
from torchprof.analysis.records import Record, none_if_nan, whole
from torchprof.analysis.time.totals import op_bytes, step_totals
from torchprof.trace.schema import Phase
from torchprof.trace.shapes import Size
from torchprof.trace.trace import Trace

__all__ = ["op_records"]

Floats = npt.NDArray[np.float64]


def op_records(
    trace: Trace, *, shapes: bool = False, phase: Phase | None = None, module: str | None = None, by_step: bool = False
) -> list[Record]:
    """One record per op name, or per name and shapes.

    Keys: ``name``; ``shapes`` and ``dtypes`` of the inputs (with ``shapes=True``; None: of many shapes,
    merged while they were recorded); ``calls``; ``time self mean min max`` in
    nanoseconds, the last three of one call, and self without the ops and module calls inside; ``spread`` (standard deviation of
    self time over steps); ``share`` of the self time of these records; ``flops bytes``; ``flops_unknown``: its name, if its
    FLOPs are unknown; ``intensity`` (FLOPs per byte), ``flop_rate`` and ``byte_rate`` (per second); ``allocated``.
    Where kernels were recorded, also ``device`` and ``device_self``, the time of the kernels that the op launched, with and
    without those of ops inside it; ``device_share`` of all ``device_self``; and ``kernels``, the number it launched itself.
    Rates are then against ``device``, and None for an op that launched nothing.

    Args:
        phase: only ops that ran in this phase.
        module: only ops that are attributed to the module with this path, or to one below it.
        by_step: add ``by_step``, the times ``self`` and ``device_self`` of every step, ``[steps]``, where the trace knows
            single steps. Not beside the other arguments.
    """
    totals = step_totals(trace)
    ops = totals.ops
    mask = np.ones(len(ops), dtype=np.bool_)
    if phase is not None:
        mask &= ops["phase"] == phase
    if module is not None:
        mask &= np.isin(ops["module"], modules_inside(trace, module))
    ops = ops[mask]
    name_of = trace.signatures["name"]
    groups = Groups.by([ops["signature"] if shapes else name_of[ops["signature"]]])
    count = len(groups.first)

    def per_step(values: Any) -> Floats:
        return totals.mean(totals.sums(groups.of, count, values))

    calls, time, own = per_step(ops["count"]), per_step(ops["time"]), per_step(ops["self_time"])
    group = np.full(len(mask), -1)
    group[mask] = groups.of
    own_by_step = totals.sums_of_self_times(group, count)
    spread = totals.spread(own_by_step)
    flops, allocated = per_step(totals.op_flops[mask]), per_step(ops["allocated"])
    moved = per_step(op_bytes(trace, totals)[mask])
    shortest, longest = groups.minimum(ops["min"]), groups.maximum(ops["max"])
    all_self = own.sum()
    columns = {"device": "device_time", "device_self": "device_self", "kernels": "kernels"} if has_kernels(trace) else {}
    device = {name: per_step(ops[column]) for name, column in columns.items()}
    all_device_self = device["device_self"].sum() if device else 0.0
    rate_time = device.get("device", time)
    unknown_by_group: dict[int, set[str]] = {}
    for at in np.flatnonzero(totals.op_unknown[mask]).tolist():
        unknown_by_group.setdefault(int(groups.of[at]), set()).add(unknown_op(trace, int(ops["signature"][at])))
    records = []
    for row, first in enumerate(groups.first.tolist()):
        signature = int(ops["signature"][first])
        record: Record = {
            "name": trace.strings[int(name_of[signature])],
            "calls": whole(calls[row]),
            "time": float(time[row]),
            "self": float(own[row]),
            "mean": float(time[row] / calls[row]) if calls[row] else None,
            "min": int(shortest[row]),
            "max": int(longest[row]),
            "spread": none_if_nan(spread[row]),
            "share": float(own[row] / all_self) if all_self else 0.0,
            "flops": at_least(whole(flops[row]), unknown_by_group.get(row, ())) if counts_flops(trace) else None,
            "flops_unknown": sorted(unknown_by_group.get(row, ())),
            "bytes": None if np.isnan(moved[row]) or not counts_flops(trace) else whole(moved[row]),
            "intensity": none_if_nan(flops[row] / moved[row]) if moved[row] and flops[row] else None,
            "flop_rate": float(flops[row] / rate_time[row] * 1e9) if rate_time[row] and flops[row] else None,
            "byte_rate": none_if_nan(moved[row] / rate_time[row] * 1e9) if rate_time[row] and moved[row] else None,
            "allocated": None if trace.facts.get("memory") is False else float(allocated[row]),
        }
        if device:
            record |= {name: float(values[row]) for name, values in device.items()}
            record["device_share"] = record["device_self"] / float(all_device_self) if all_device_self else 0.0
        if by_step and totals.by_step:
            record["by_step"] = {"self": own_by_step[row]}
        if shapes:
            record["shapes"], record["dtypes"] = (None, None) if ops["merged"][first] else _inputs(trace, signature)
        records.append(record)
    if by_step and totals.by_step and device:
        _add_device_by_step(trace, records)
    return records


def _add_device_by_step(trace: Trace, records: list[Record]) -> None:
    """Add the device time of every step of what each op launched itself."""
    totals = step_totals(trace)
    kernels = totals.kernels
    of_ops = kernels[kernels["op"] >= 0]
    device = totals.sums(of_ops["op"], len(trace.strings), of_ops["time"], of_ops["step"])
    rows = {name: row for row, name in enumerate(trace.strings)}
    for record in records:
        record["by_step"]["device_self"] = device[rows[record["name"]]]


def _inputs(trace: Trace, signature: int) -> tuple[list[list[Size]], list[str]]:
    """Shapes and dtypes of the input tensors."""
    row = trace.signatures[signature]
    first = int(row["inputs"])
    tensors = trace.tensors[trace.operands[first : first + int(row["n_inputs"])]]
    shapes = [list(trace.shape(int(shape))) for shape in tensors["shape"]]
    return shapes, [trace.dtypes[dtype].name for dtype in tensors["dtype"].tolist()]
