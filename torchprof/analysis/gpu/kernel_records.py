"""Kernels, copies and memsets by name: the records of the table by kernel. All figures are means over the active steps."""

from __future__ import annotations

from typing import Final

import numpy as np

from torchprof.analysis.gpu.copies import DIRECTIONS
from torchprof.analysis.gpu.kernel_names import short_name
from torchprof.analysis.gpu.launchers import IN_GRAPH, NO_OP
from torchprof.analysis.groups import Groups
from torchprof.analysis.model.module_tree import modules_inside
from torchprof.analysis.records import Record
from torchprof.analysis.time.totals import step_totals
from torchprof.trace.schema import Activity, Phase
from torchprof.trace.trace import Trace

__all__ = ["kernel_records"]

KINDS: Final[dict[int, str]] = {
    Activity.KERNEL: "kernel",
    Activity.COPY: "copy",
    Activity.MEMSET: "memset",
    Activity.INTERVAL: "interval",
}


def kernel_records(
    trace: Trace, *, phase: Phase | None = None, module: str | None = None, by_step: bool = False
) -> list[Record]:
    """One record per kernel: by full name, and by whether it ran in a CUDA graph.

    Keys: ``name`` (short), ``full_name``; ``kind`` (``"kernel"``, ``"copy"``, ``"memset"``; ``"interval"`` of a stream between
    two events); ``direction`` of a copy; ``graph``, whether it ran in a CUDA graph; ``count`` per step; ``device``, its time
    per step in nanoseconds, and ``device_share`` of the time of all rows; ``mean min max`` of one; ``bytes`` per step and
    ``byte_rate`` of copies and memsets; ``launched_by``, the names of the ops that launched it, most device time first.

    Args:
        phase: only kernels that were launched in this phase.
        module: only kernels that are attributed to the module with this path, or to one below it; ``""`` is any module.
        by_step: add ``by_step``, the time ``device`` of every step, ``[steps]``, where the trace knows single steps.
    """
    totals = step_totals(trace)
    kernels = totals.kernels
    if phase is not None:
        kernels = kernels[kernels["phase"] == phase]
    if module is not None:
        kernels = kernels[np.isin(kernels["module"], modules_inside(trace, module))]
    groups = Groups.by([kernels[name] for name in ("name", "kind", "direction", "in_graph")])
    count, time, moved = (groups.sums(kernels[name]) for name in ("count", "time", "bytes"))
    shortest, longest = groups.minimum(kernels["min"]), groups.maximum(kernels["max"])
    launchers = Groups.by([groups.of, kernels["op"]])
    launched_time = launchers.sums(kernels["time"])
    ops: dict[int, list[str]] = {}
    for at in np.argsort(-launched_time, kind="stable").tolist():
        row = kernels[launchers.first[at]]
        name = IN_GRAPH if row["in_graph"] else trace.strings[int(row["op"])] if row["op"] >= 0 else NO_OP
        names = ops.setdefault(int(groups.of[launchers.first[at]]), [])
        if name not in names:
            names.append(name)
    total_time = int(time.sum())
    times = totals.sums(groups.of, len(groups.first), kernels["time"], kernels["step"]) if by_step and totals.by_step else None
    records: list[Record] = []
    for at, first in enumerate(groups.first.tolist()):
        row = kernels[first]
        full_name, kind = trace.strings[int(row["name"])], int(row["kind"])
        took, bytes_moved = int(time[at]), int(moved[at])
        records.append(
            {
                "name": short_name(full_name) if kind == Activity.KERNEL else full_name,
                "full_name": full_name,
                "kind": KINDS.get(kind, ""),
                "direction": DIRECTIONS.get(int(row["direction"]), ""),
                "graph": bool(row["in_graph"]),
                "count": int(count[at]) / totals.steps,
                "device": took / totals.steps,
                "device_share": took / total_time if total_time else 0.0,
                "mean": took / int(count[at]),
                "min": int(shortest[at]),
                "max": int(longest[at]),
                "bytes": bytes_moved / totals.steps if bytes_moved else None,
                "byte_rate": bytes_moved / took * 1e9 if bytes_moved and took else None,
                "launched_by": ops[at],
                **({"by_step": {"device": times[at]}} if times is not None else {}),
            }
        )
    return records
