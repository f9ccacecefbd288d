"""What every rank did in a step: the records of the table by rank."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from torchprof.analysis.distributed.exposed import work_of
from torchprof.analysis.memory.account import MemoryAccount
from torchprof.analysis.memory.devices import resolve_device
from torchprof.analysis.memory.steps import memory_is_known, memory_of_steps
from torchprof.analysis.records import Record
from torchprof.analysis.remembered import remembered
from torchprof.analysis.steps import PHASE_COLUMNS, active_steps, step_times
from torchprof.trace.ranks import Ranks
from torchprof.trace.schema import Phase
from torchprof.trace.trace import Trace

__all__ = ["TIMES", "rank_records"]

PHASES: Final = {**PHASE_COLUMNS, "other": Phase.OTHER}
TIMES: Final = ("time", *PHASES, "compute", "communication", "exposed", "idle")
"""The figures that are nanoseconds of a step."""


def rank_records(ranks: Ranks) -> list[Record]:
    """One record for every rank, in their order.

    Keys: ``rank hostname coordinate steps``; ``time`` of a step and, of it, ``forward recompute backward optimizer data
    other``, which add up to it; ``compute communication exposed idle`` as `Work` has them; all of these in nanoseconds, means
    over the active steps. ``peak``, the most bytes held in a step. ``errors``, the standard error of the mean of each time, by
    name. What is not known is None.
    """
    return [
        {
            "rank": number,
            "hostname": trace.facts.get("host"),
            "coordinate": _coordinate(trace.facts),
            **_figures(trace),
        }
        for number, trace in zip(ranks.numbers, ranks, strict=True)
    ]


@remembered
def _figures(trace: Trace) -> Record:
    active = active_steps(trace)
    record: Record = {"steps": len(active), **dict.fromkeys(("time", *PHASES)), "errors": {}}
    times = step_times(trace)
    if times is not None and len(times.time):
        by_name = {"time": times.time, **{name: times.by_phase[phase] for name, phase in PHASES.items()}}
        record |= {name: float(values.mean()) for name, values in by_name.items()}
        if len(times.time) > 1:
            count = np.sqrt(len(times.time))
            record["errors"] = {name: float(values.std(ddof=1) / count) for name, values in by_name.items()}
    work, steps = work_of(trace), max(1, len(active))
    for name in ("compute", "communication", "exposed", "idle"):
        whole = getattr(work, name)
        record[name] = whole / steps if whole is not None else None
    return {**record, "peak": _peak(trace)}


def _peak(trace: Trace) -> int | None:
    """The most bytes held in an active step or, without steps, while recording."""
    if trace.facts.get("memory") is False or trace.losses.get("allocations"):
        return None
    active = trace.steps["warmup"] == 0
    if not memory_is_known(trace):
        return int(trace.steps["peak"][active].max()) if active.any() else None
    if not len(trace.allocations):
        return None
    if not len(trace.steps):
        return MemoryAccount.of(trace, resolve_device(trace, None)).peak.bytes
    return int(memory_of_steps(trace).peak[active].max()) if active.any() else None


def _coordinate(facts: dict[str, Any]) -> str | None:
    """Where it stands in the first mesh: ``"dp=0, tp=1"``."""
    for mesh in facts.get("meshes", ()):
        if mesh["coordinate"] is not None:
            return ", ".join(f"{name}={at}" for name, at in zip(mesh["dimensions"], mesh["coordinate"], strict=False))
    return None
