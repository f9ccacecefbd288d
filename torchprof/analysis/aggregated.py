"""The sums of a trace in place of its single ops, as ``profile(aggregate=True)`` keeps them: small, whatever was recorded."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from torchprof.analysis.groups import Groups
from torchprof.analysis.lookups import modules_of_calls
from torchprof.analysis.spans import durations
from torchprof.analysis.steps import active_steps, step_of
from torchprof.analysis.time.calls import outermost
from torchprof.analysis.time.totals import step_totals
from torchprof.trace.schema import LAYOUTS, NO_NAME, Rows, phases_of_calls
from torchprof.trace.trace import Trace

__all__ = ["aggregated"]

DROPPED: Final = (
    *("ops", "module_calls", "allocations", "allocator_totals", "kernels", "runtime_calls", "functions", "stacks"),
    *("op_stacks", "call_stacks", "allocation_stacks", "threads"),
)
OF_KERNELS: Final = ("name", "op", "module", "phase", "kind", "direction", "device_type", "device_index", "in_graph")


def aggregated(trace: Trace) -> Trace:
    """The same trace with sums over its active steps alone. One that holds sums already is returned as it is.

    The tables by module, op and kernel say the same of both. Left out are single ops, calls, kernels and allocations, lines of
    Python, and with them collectives, what was computed and exposed, the work of single steps, and the account of memory: the
    memory of a step is that of what was allocated since the recording began.
    """
    if trace.facts.get("aggregate"):
        return trace
    tables: dict[str, Any] = {name: np.zeros(0, dtype=LAYOUTS[name]) for name in DROPPED}
    tables |= {"op_totals": _op_totals(trace), "call_totals": _call_totals(trace), "kernel_totals": _kernel_totals(trace)}
    tables |= _operands(trace)
    facts = {name: value for name, value in trace.facts.items() if name not in ("collectives", "source_files")}
    return replace(trace, **tables, facts={**facts, "aggregate": True, "stacks": False})


def _op_totals(trace: Trace) -> Rows:
    ops = step_totals(trace).ops
    rows = np.zeros(len(ops), dtype=LAYOUTS["op_totals"])
    for name in ops.dtype.names or ():
        rows[name] = ops[name]
    rows["stack"] = -1
    return rows


def _call_totals(trace: Trace) -> Rows:
    calls, active = trace.module_calls, active_steps(trace)
    sums = step_totals(trace).calls
    groups = Groups.by([sums["module"], sums["phase"]])
    rows = np.zeros(len(groups.first), dtype=LAYOUTS["call_totals"])
    for name in ("module", "phase"):
        rows[name] = sums[name][groups.first]
    for name in ("count", "time", "self_time"):
        rows[name] = groups.sums(sums[name])
    counted = np.flatnonzero(step_of(calls["start"], trace, active) >= 0)
    time = np.where(outermost(calls), durations(calls), 0)[counted]
    same = Groups.by([calls["module"][counted].astype(np.int64), phases_of_calls(calls)[counted]])
    first = counted[same.first]
    keys = zip(calls["module"][first].tolist(), phases_of_calls(calls)[first].tolist(), strict=True)
    row_of = {key: row for row, key in enumerate(keys)}
    at = [row_of[key] for key in zip(rows["module"].tolist(), rows["phase"].tolist(), strict=True)]
    rows["min"], rows["max"] = same.minimum(time)[at], same.maximum(time)[at]
    rows["caller"] = _callers(trace)[rows["module"]]
    rows["stack"] = -1
    return rows


def _callers(trace: Trace) -> npt.NDArray[np.int64]:
    """For every module, that which called it first; -1: none did."""
    calls = trace.module_calls
    found = np.full(len(trace.modules), -1, dtype=np.int64)
    modules, first = np.unique(calls["module"], return_index=True)
    found[modules] = modules_of_calls(trace, calls["parent"][first])
    return found


def _kernel_totals(trace: Trace) -> Rows:
    kernels = step_totals(trace).kernels
    groups = Groups.by([kernels[name] for name in OF_KERNELS])
    rows = np.zeros(len(groups.first), dtype=LAYOUTS["kernel_totals"])
    for name in OF_KERNELS:
        values = kernels[name][groups.first]
        rows[name] = np.where(values < 0, NO_NAME, values) if name == "op" else values
    for name in ("count", "time", "bytes"):
        rows[name] = groups.sums(kernels[name])
    rows["min"], rows["max"] = groups.minimum(kernels["min"]), groups.maximum(kernels["max"])
    return rows


def _operands(trace: Trace) -> dict[str, Rows]:
    """The operands of signatures, and the tensors, shapes and sizes that these refer to."""
    signatures = trace.signatures.copy()
    spans = [
        (column, np.arange(int(first), int(first) + int(count)))
        for column, how_many in (("inputs", "n_inputs"), ("outputs", "n_outputs"))
        for first, count in zip(signatures[column].tolist(), signatures[how_many].tolist(), strict=True)
    ]
    rows = np.concatenate([span for _, span in spans]) if spans else np.zeros(0, dtype=np.int64)
    begins = np.cumsum([0, *(len(span) for _, span in spans)])[:-1]
    for at, column in enumerate(("inputs", "outputs")):
        signatures[column] = begins[at * len(signatures) : (at + 1) * len(signatures)]
    tensors, operands = np.unique(trace.operands[rows], return_inverse=True)
    kept = trace.tensors[tensors].copy()
    shapes, kept["shape"] = np.unique(kept["shape"], return_inverse=True)
    layout = trace.shapes[shapes].copy()
    dims = [trace.dims[int(first) : int(first) + int(ndim)] for first, ndim in layout.tolist()]
    layout["first"] = np.cumsum([0, *map(len, dims)])[:-1]
    return {
        "signatures": signatures,
        "operands": operands.astype(trace.operands.dtype),
        "tensors": kept,
        "shapes": layout,
        "dims": np.concatenate([*dims, np.zeros(0, dtype=trace.dims.dtype)]).astype(trace.dims.dtype),
    }
