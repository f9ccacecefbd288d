"""`torchprof.by_step`: what every step took."""

from __future__ import annotations

from torchprof.analysis.memory.devices import resolve_device
from torchprof.analysis.memory.steps import memory_is_known
from torchprof.analysis.steps import how_to_mark_steps
from torchprof.analysis.time.step_records import step_records
from torchprof.errors import ArgumentError
from torchprof.tables.checks import check_trace
from torchprof.tables.footer import footer, of_what, ops_not_recorded, unknown_flops
from torchprof.tables.table import About, Table, worth_showing
from torchprof.trace.trace import Trace

__all__ = ["by_step"]


def by_step(trace: Trace) -> Table:
    """What every step took, by phase, and its memory. The phases add up to the step. Warm-up steps are shown, and marked.

    Where rows did not fit the budget, what they would tell of a step is unknown, ``?``.

    Args:
        trace: of `torchprof.profile`, recorded with ``prof.step()`` at the end of every step.

    Raises:
        ArgumentError: no step was marked.

    Example:
        >>> print(torchprof.by_step(prof.trace).sort("time"))
    """
    check_trace(trace)
    records = step_records(trace)
    if not records:
        ended = f" ({trace.facts['ended_by']} ended the recording in its first one)" if "ended_by" in trace.facts else ""
        raise ArgumentError(f"the trace has no steps{ended}: {how_to_mark_steps(trace)}")
    columns = "warmup time device kernels forward recompute backward optimizer data other flops allocated peak held".split()
    shown = worth_showing(records, columns, optional=[name for name in columns if name != "time"])
    rows = [{"name": record["step"], **record} for record in records]
    unknown = {name for record in records for name in record["flops_unknown"] or ()}
    lines = (
        *footer(trace, of="Each row is one step"),
        *ops_not_recorded(trace, "column Other"),
        *unknown_flops(unknown, trace),
    )
    below: tuple[str | About, ...] = (_of_memory(trace), *lines)
    return Table("Step", rows, shown, below, is_dim=_is_warmup, unknown="?")


def _of_memory(trace: Trace) -> About:
    return About(("peak", "held"), of_what(trace, resolve_device(trace, None) if memory_is_known(trace) else None))


def _is_warmup(row: dict[str, object]) -> bool:
    return bool(row["warmup"])
