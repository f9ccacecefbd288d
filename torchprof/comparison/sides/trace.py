"""A trace as a side of a comparison."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np

from torchprof.analysis.gpu.backend import has_kernels
from torchprof.analysis.gpu.kernel_records import kernel_records
from torchprof.analysis.lines.records import place_records
from torchprof.analysis.memory.steps import memory_is_known, not_recorded
from torchprof.analysis.records import Record
from torchprof.analysis.steps import PHASE_COLUMNS, active_steps, evaluation_steps, step_times
from torchprof.analysis.time.module_records import module_records
from torchprof.analysis.time.op_records import op_records
from torchprof.analysis.time.totals import step_totals
from torchprof.comparison.noise import LEAST_STEPS
from torchprof.comparison.side import By, Row, Side
from torchprof.comparison.sides.conditions import conditions_of
from torchprof.errors import ArgumentError
from torchprof.tables.by_line import check_stacks, with_sources
from torchprof.tables.by_module import add_bytes, saved_by_module
from torchprof.tables.footer import of_what, remarks
from torchprof.tables.memory import Memory
from torchprof.trace.schema import Phase
from torchprof.trace.trace import Trace
from torchprof.wording import counted, numbered

__all__ = ["LEADS", "account_of", "add_own", "default_by", "trace_rows", "trace_side"]

LEADS: Final[dict[By, tuple[str, ...]]] = {
    "module": ("self",),
    "op": ("device_self", "self"),
    "line": ("device_self", "self"),
    "function": ("device_self", "self"),
    "kernel": ("device",),
    "category": ("at_peak",),
}

ODD: Final = 2
"""Times the median that a step takes which is not like the others."""
MOST_NAMED: Final = 5
OF_TREE: Final = ("flops", "saved", "at_peak")
"""Figures of modules that contain what is below."""


def default_by(trace: Trace) -> By:
    """By module where any was recorded, else by op."""
    return "module" if len(trace.modules) or not step_totals(trace).ops.size else "op"


def trace_side(trace: Trace, by: By) -> Side:
    """The rows and totals of a trace.

    Raises:
        ArgumentError: the trace does not have such rows.
    """
    records, account = trace_rows(trace, by)
    active = len(active_steps(trace))
    evaluated = int(np.isin(active_steps(trace)["number"], evaluation_steps(trace)).sum())
    steps = f"mean of {active:,} steps" if active > 1 else "one step" if active else "the whole recording, which has no steps"
    if not active and len(trace.steps):
        steps = "no step but warm-up, which is left out"
    few = f"it has {counted(active, 'step') if active else 'no steps'}, and {LEAST_STEPS} are needed"
    return Side(
        "trace",
        by,
        [Row.of(record) for record in records],
        Row.of(_totals(trace, account)),
        LEADS[by],
        conditions_of(trace, account),
        definitions={"peak": of_what(trace, account.device if account is not None else None)},
        of=steps,
        per_step=active > 0,
        evaluations=evaluated / active if active else 0.0,
        no_noise=few if active < LEAST_STEPS else "",
        losses=trace.losses,
        remarks=(*_odd_steps(trace), *remarks(trace)),
    )


def _odd_steps(trace: Trace) -> Iterator[str]:
    """What must be said where some steps took much longer than the others."""
    times = step_times(trace)
    if times is None or len(times.time) < LEAST_STEPS:
        return
    long = times.time > ODD * np.median(times.time)
    if long.any():
        numbers = numbered(active_steps(trace)["number"][long].tolist(), "step", MOST_NAMED)
        some = counted(int(long.sum()), "step took", "steps took")
        yield f"{some} more than {ODD} times as long as the median, which makes intervals wide: {numbers}"


def account_of(trace: Trace) -> Memory | None:
    """The account of its memory; None where there is none."""
    if not memory_is_known(trace) or not trace.facts.get("memory"):
        return None
    try:
        return Memory.of(trace)
    except ArgumentError:
        return None


def trace_rows(trace: Trace, by: By) -> tuple[list[Record], Memory | None]:
    """The records of the rows, and the account of memory."""
    account = account_of(trace)
    match by:
        case "module":
            records = module_records(trace, by_step=True)
            if account is not None and not not_recorded(trace):
                held = {path: sum(by_category.values()) for path, by_category in account.by_module.items()}
                add_bytes(records, "saved", saved_by_module(trace))
                add_bytes(records, "at_peak", held)
            add_own(records)
        case "op":
            records = op_records(trace, by_step=True)
        case "kernel":
            records = kernel_records(trace, by_step=True)
        case "line" | "function":
            check_stacks(trace)
            records = place_records(trace, functions=by == "function", by_step=True)
            with_sources(trace, records)
        case "category":
            if account is None:
                raise ArgumentError("trace has no account of memory, which by='category' compares: record with memory=True")
            records = [{"name": name, "at_peak": size} for name, size in account.by_category.items() if size]
    return records, account


def add_own(records: list[Record]) -> None:
    """Add what modules have of bytes and FLOPs without the modules below them, where it is known."""
    above: list[Record] = []
    for record in records:
        del above[record["depth"] :]
        record["own"] = {name: record[name] for name in OF_TREE if record.get(name) is not None}
        if above:
            for name in OF_TREE:
                if name in above[-1]["own"]:
                    above[-1]["own"][name] -= record.get(name) or 0
        above.append(record)


def _totals(trace: Trace, account: Memory | None) -> Record:
    """The figures of the whole: of one step, on average."""
    totals = step_totals(trace)
    record: Record = {"name": "step" if len(trace.steps) else "recording"}
    by_step: dict[str, Any] = {}
    times = step_times(trace)
    if times is not None and len(times.time):
        by_step["time"] = times.time
        by_step |= {name: times.by_phase[phase] for name, phase in (*PHASE_COLUMNS.items(), ("other", Phase.OTHER))}
        record |= {name: float(np.mean(values)) for name, values in by_step.items()}
    if has_kernels(trace):
        kernels = totals.kernels
        one = np.zeros(len(kernels), dtype=np.int64)
        device = totals.sums(one, 1, kernels["time"], kernels["step"])
        record["device"], record["kernels"] = float(totals.mean(device)[0]), int(kernels["count"].sum()) / totals.steps
        if totals.by_step:
            by_step["device"] = device[0]
    if trace.facts.get("ops") is not False:
        record["ops"] = int(totals.ops["count"].sum()) / totals.steps
    record |= _flops(trace)
    if account is not None:
        record["peak"] = account.peak.bytes
        record["max_reserved"] = account.max_reserved
        record["saved"] = sum(account.saved_by_module.values()) if account.saved_unknown is None else None
    elif trace.facts.get("aggregate") and trace.facts.get("memory") and len(active_steps(trace)):
        record["peak"] = int(active_steps(trace)["peak"].max())
    if account is not None or trace.facts.get("memory"):
        record["allocated"] = int(totals.ops["allocated"].sum()) / totals.steps
    return {**record, "by_step": by_step}


def _flops(trace: Trace) -> Record:
    outermost = [record for record in module_records(trace) if not record["depth"]]
    known = [record["flops"] for record in outermost if record["flops"] is not None]
    unknown = sorted({name for record in outermost for name in record["flops_unknown"]})
    return {"flops": sum(known) if known or not outermost else None, "flops_unknown": unknown}
