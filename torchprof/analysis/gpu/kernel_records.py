"""Kernels, copies and fills by name: rows of the table by kernel. All figures are means over the active steps."""

from __future__ import annotations

from typing import Final

import numpy as np

from torchprof.analysis.gpu.kernel_names import short_name
from torchprof.analysis.groups import Groups
from torchprof.analysis.model.module_tree import modules_inside
from torchprof.analysis.time.breakdown import Record
from torchprof.analysis.time.totals import step_totals
from torchprof.trace.schema import Activity, Direction, Phase
from torchprof.trace.trace import Trace

__all__ = ["DIRECTIONS", "IN_GRAPH", "NO_OP", "kernel_records"]

NO_OP: Final = "(no op)"
"""What is written for a kernel that was launched outside of all ops, or whose launch was not seen."""
IN_GRAPH: Final = "(CUDA graph)"
"""What is written for a kernel that a CUDA graph ran: no op launched it by itself."""

DIRECTIONS: Final[dict[int, str]] = {
    Direction.OTHER: "",
    Direction.HOST_TO_DEVICE: "host to device",
    Direction.DEVICE_TO_HOST: "device to host",
    Direction.ON_DEVICE: "on device",
    Direction.BETWEEN_DEVICES: "between devices",
}
KINDS: Final[dict[int, str]] = {
    Activity.KERNEL: "kernel",
    Activity.COPY: "copy",
    Activity.MEMSET: "fill",
    Activity.INTERVAL: "interval",
}


def kernel_records(trace: Trace, *, phase: Phase | None = None, module: str | None = None) -> list[Record]:
    """One record per kernel: by full name, and by whether a CUDA graph ran it.

    Keys: ``name`` (short), ``full_name``; ``kind`` (``"kernel"``, ``"copy"``, ``"fill"``; ``"interval"`` of a stream between
    two events); ``direction`` of a copy; ``graph``; ``count`` per step; ``device``, its time per step in nanoseconds, and
    ``device_share`` of the time of all rows; ``mean min max`` of one; ``bytes`` per step and ``byte_rate`` of copies and
    fills; ``launched_by``, names of the ops that asked for it, most device time first.

    Args:
        phase: only kernels that ops of this phase asked for.
        module: only kernels that worked for the module with this path, or for one below it; ``""`` is any module.
    """
    totals = step_totals(trace)
    kernels = totals.kernels
    if phase is not None:
        kernels = kernels[kernels["phase"] == phase]
    if module is not None:
        kernels = kernels[np.isin(kernels["module"], modules_inside(trace, module))]
    groups = Groups.by([kernels[name] for name in ("name", "kind", "direction", "in_graph")])
    count, time, moved = (groups.sums(kernels[name]) for name in ("count", "time", "bytes"))
    least, most = groups.least(kernels["min"]), groups.most(kernels["max"])
    asked = Groups.by([groups.of, kernels["op"]])
    asked_time = asked.sums(kernels["time"])
    ops: dict[int, list[str]] = {}
    for at in np.argsort(-asked_time, kind="stable").tolist():
        row = kernels[asked.first[at]]
        name = IN_GRAPH if row["in_graph"] else trace.strings[int(row["op"])] if row["op"] >= 0 else NO_OP
        names = ops.setdefault(int(groups.of[asked.first[at]]), [])
        if name not in names:
            names.append(name)
    whole = int(time.sum())
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
                "device_share": took / whole if whole else 0.0,
                "mean": took / int(count[at]),
                "min": int(least[at]),
                "max": int(most[at]),
                "bytes": bytes_moved / totals.steps if bytes_moved else None,
                "byte_rate": bytes_moved / took * 1e9 if bytes_moved and took else None,
                "launched_by": ops[at],
            }
        )
    return records
