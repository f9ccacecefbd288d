"""Where the time of a training loop went, by step: the records of the table by step."""

from __future__ import annotations

from typing import Final

import numpy as np

from torchprof.analysis.groups import Groups
from torchprof.analysis.memory.steps import memory_is_known, memory_of_steps
from torchprof.analysis.model.flops import at_least, counted_flops, counts_flops, is_unknown, unknown_op
from torchprof.analysis.records import Record
from torchprof.analysis.spans import sum_by
from torchprof.analysis.steps import PHASE_COLUMNS, step_of, step_times
from torchprof.trace.schema import OP_NESTED, Phase, Rows
from torchprof.trace.trace import Trace

__all__ = ["step_records"]

OF_PHASES: Final = (*PHASE_COLUMNS, "other")
OF_TABLE: Final = {
    "ops": (*OF_PHASES, "ops", "flops"),
    "module_calls": OF_PHASES,
    "allocations": ("allocated", "peak", "held"),
}
"""What of a step is told by which table."""


def step_records(trace: Trace) -> list[Record]:
    """One record per step, warm-up steps included and marked.

    Keys: ``step warmup``; ``time`` and, of it, ``forward recompute backward optimizer data other`` in nanoseconds, which add
    up to it; ``ops``; ``flops``, and ``flops_unknown``, the ops whose FLOPs are unknown; ``allocated peak held`` in bytes:
    allocated during the step, the most held, and held at its end, on the device of the account of memory and as defined there;
    in an aggregated trace of what was allocated while recording, on all devices. ``ops`` and ``flops`` are None in an
    aggregated trace, which keeps their sums over all steps only. What is of steps in which rows may have been lost is None, but
    for their time. Where kernels were recorded, also ``device``, the time in
    which any device worked for the step, and ``kernels``, the number that the step launched.
    """
    steps = trace.steps
    times = step_times(trace, steps)
    if times is None or not times.is_step:
        return []
    records: list[Record] = [
        {
            "step": int(step["number"]),
            "warmup": bool(step["warmup"]),
            "time": int(step["end"] - step["start"]),
            **{name: int(times.by_phase[phase][row]) for name, phase in (*PHASE_COLUMNS.items(), ("other", Phase.OTHER))},
            **dict.fromkeys(("ops", "flops", "flops_unknown")),
            "allocated": int(step["allocated"]),
            "peak": int(step["peak"]),
            "held": int(step["held"]),
        }
        for row, step in enumerate(steps)
    ]
    if memory_is_known(trace):
        memory = memory_of_steps(trace)
        for row, record in enumerate(records):
            record |= {name: int(getattr(memory, name)[row]) for name in OF_TABLE["allocations"]}
    elif trace.facts.get("memory") is False:
        for record in records:
            record |= dict.fromkeys(OF_TABLE["allocations"])
    if steps["kernels"].any() or steps["busy"].any():
        for record, step in zip(records, steps, strict=True):
            record |= {"device": int(step["busy"]), "kernels": int(step["kernels"])}
    if trace.facts.get("aggregate") or not records:
        return records
    _add_ops(trace, records)
    _forget_lost(trace, records)
    return records


def _add_ops(trace: Trace, records: list[Record]) -> None:
    ops, steps = trace.ops, len(records)
    step = step_of(ops["start"], trace, trace.steps)
    nested = ops["flags"] & OP_NESTED != 0
    counts = np.bincount(step + 1, minlength=steps + 1)[1:]
    flops = sum_by(step, counted_flops(trace, ops["signature"], nested), steps)
    unknown: list[set[str]] = [set() for _ in records]
    of_unknown = np.flatnonzero((step >= 0) & is_unknown(trace, ops["signature"], nested))
    groups = Groups.by([step[of_unknown], ops["signature"][of_unknown]])
    for at in of_unknown[groups.first].tolist():
        unknown[step[at]].add(unknown_op(trace, int(ops["signature"][at])))
    for row, record in enumerate(records):
        record["flops"] = at_least(int(flops[row]), unknown[row]) if counts_flops(trace) else None
        record["ops"], record["flops_unknown"] = int(counts[row]), sorted(unknown[row])


def _forget_lost(trace: Trace, records: list[Record]) -> None:
    """Make unknown what is of rows that were lost: from the step on in which the last of their table was recorded."""
    for table, columns in OF_TABLE.items():
        if trace.losses.get(table):
            for row in np.flatnonzero(trace.steps["end"] > _last_recorded(getattr(trace, table))).tolist():
                records[row] |= dict.fromkeys(columns)


def _last_recorded(rows: Rows) -> int:
    """When the last of these rows began, of the thread with the most: it is the first that finds no room. -1 for none."""
    rows = rows[rows["start"] >= 0]
    if not len(rows):
        return -1
    return int(rows["start"][rows["thread"] == np.bincount(rows["thread"]).argmax()].max())
