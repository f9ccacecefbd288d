"""Sums of kernels by name, op, module, phase and device, from single kernels or from an aggregated trace."""

from __future__ import annotations

import numpy as np

from torchprof.analysis.gpu.kernels import kernel_steps, kernel_times
from torchprof.analysis.groups import Groups
from torchprof.analysis.lookups import modules_of_calls, names_of_ops
from torchprof.trace.schema import NO_NAME, Rows
from torchprof.trace.trace import Trace

__all__ = ["KERNELS", "aggregated_kernel_sums", "kernel_sums"]

_KEYS = ("name", "op", "module", "phase", "kind", "direction", "device_type", "device_index", "in_graph")

KERNELS = np.dtype([(column, "i8") for column in (*_KEYS, "step", "count", "time", "min", "max", "bytes")])
"""Sums of kernels. ``name`` and ``op`` are rows of ``trace.strings``, ``module`` is one of ``trace.modules``; -1 for none."""


def kernel_sums(trace: Trace, active: Rows) -> Rows:
    """The kernels of active steps, summed by step and by all columns of ``KERNELS`` that are no sums."""
    step = kernel_steps(trace, active)
    counted = np.flatnonzero(step >= 0)
    # Column by column: copying whole rows is ten times slower.
    kernels = trace.kernels
    columns = {name: kernels[name][counted] for name in _KEYS if name not in ("op", "module", "in_graph")}
    columns["op"] = names_of_ops(trace, kernels["op"][counted])
    columns["module"] = modules_of_calls(trace, kernels["module_call"][counted])
    columns["in_graph"] = (kernels["graph"][counted] != 0).astype(np.int64)
    columns["step"] = step[counted]
    order = (*_KEYS, "step")
    groups = Groups.by([columns[name] for name in order])
    rows = np.zeros(len(groups.first), dtype=KERNELS)
    for name in order:
        rows[name] = columns[name][groups.first]
    time = kernel_times(kernels)[counted]
    rows["count"] = groups.count
    rows["time"], rows["bytes"] = groups.sums(time), groups.sums(kernels["bytes"][counted])
    rows["min"], rows["max"] = groups.minimum(time), groups.maximum(time)
    return rows


def aggregated_kernel_sums(totals: Rows) -> Rows:
    """The same from ``trace.kernel_totals`` of an aggregated trace; all rows are of step 0."""
    rows = np.zeros(len(totals), dtype=KERNELS)
    for name in KERNELS.names or ():
        if name != "step":
            rows[name] = totals[name]
    rows["op"][totals["op"] == NO_NAME] = -1
    return rows
