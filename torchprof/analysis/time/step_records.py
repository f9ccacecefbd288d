"""Where the time of a training loop went, by step: the records of the table by step."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from torchprof.analysis.memory.steps import memory_is_known, memory_of_steps
from torchprof.analysis.model.flops import at_least, counts_flops, unknown_op
from torchprof.analysis.records import Record
from torchprof.analysis.time.totals import step_totals
from torchprof.trace.schema import Phase
from torchprof.trace.trace import Trace

__all__ = ["step_records"]

Floats = npt.NDArray[np.float64]


def step_records(trace: Trace) -> list[Record]:
    """One record per step, warm-up steps included and marked.

    Keys: ``step warmup``; ``time`` and, of it, ``forward recompute backward optimizer other`` in nanoseconds; ``ops``;
    ``flops``, and ``flops_unknown``, the ops whose FLOPs are unknown; ``allocated peak held`` in bytes: allocated during the
    step, the most held, and held at its end, on the device of the account of memory and as defined there; in an aggregated
    trace of what was allocated while recording, on all devices. The parts of the time are None in an aggregated trace, which
    keeps their sums over all steps only. Where kernels were recorded, also ``device``, the time in
    which any device worked for the step, and ``kernels``, the number that the step launched.
    """
    steps = trace.steps
    records: list[Record] = [
        {
            "step": int(step["number"]),
            "warmup": bool(step["warmup"]),
            "time": int(step["end"] - step["start"]),
            **dict.fromkeys(("forward", "recompute", "backward", "optimizer", "other", "ops", "flops", "flops_unknown")),
            "allocated": int(step["allocated"]),
            "peak": int(step["peak"]),
            "held": int(step["held"]),
        }
        for step in steps
    ]
    if memory_is_known(trace):
        memory = memory_of_steps(trace)
        for row, record in enumerate(records):
            record |= {name: int(getattr(memory, name)[row]) for name in ("allocated", "peak", "held")}
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

    all_ops = np.ones(len(ops), dtype=np.bool_)
    loss = (ops["phase"] == Phase.FORWARD) & (ops["module"] < 0)
    parts = {"forward": per_step(calls, calls["self_time"], calls["recomputed"] == 0) + per_step(ops, ops["self_time"], loss)}
    for name, phase in (("recompute", Phase.RECOMPUTATION), ("backward", Phase.BACKWARD), ("optimizer", Phase.OPTIMIZER)):
        parts[name] = per_step(ops, ops["self_time"], ops["phase"] == phase)
    counts = per_step(ops, ops["count"], all_ops)
    flops = per_step(ops, totals.op_flops, all_ops)
    for row, record in enumerate(records):
        record.update({name: float(values[row]) for name, values in parts.items()})
        # Parts that run on several threads at once may take longer than the step.
        record["other"] = max(0.0, record["time"] - sum(float(values[row]) for values in parts.values()))
        unknown = {unknown_op(trace, int(each)) for each in ops["signature"][totals.op_unknown & (ops["step"] == row)]}
        record["flops"] = at_least(float(flops[row]), unknown) if counts_flops(trace) else None
        record["ops"], record["flops_unknown"] = int(counts[row]), sorted(unknown)
    return records
