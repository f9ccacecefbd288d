"""How much of communication runs while the same device computes: the records of the table of overlap.

The definition is that of Holistic Trace Analysis: the time in which kernels of collectives and of computation run at once, by
the time in which those of collectives run. Copies and fills are neither.
"""

from __future__ import annotations

import numpy as np

from torchprof.analysis.device_names import devices_of
from torchprof.analysis.distributed.collective_names import is_collective_kernel
from torchprof.analysis.distributed.exposed import work_of
from torchprof.analysis.distributed.intervals import Intervals
from torchprof.analysis.gpu.backend import has_kernels
from torchprof.analysis.records import Record
from torchprof.analysis.steps import active_steps
from torchprof.trace.ranks import Ranks
from torchprof.trace.schema import Activity
from torchprof.trace.trace import Trace

__all__ = ["overlap_records"]


def overlap_records(ranks: Ranks) -> list[Record]:
    """One record for every device of every rank; on the CPU, one for every rank.

    Keys: ``name rank``; of a step ``communication``, nanoseconds in which collectives ran, ``hidden``, in which something was
    computed meanwhile, and ``exposed``, in which nothing was; ``overlap``, hidden by communication. None: not known.
    """
    records = []
    for number, trace in zip(ranks.numbers, ranks, strict=True):
        steps = max(1, len(active_steps(trace)))
        of_devices = _of_devices(trace)
        for device, (communication, hidden) in of_devices.items():
            name = f"{number} {device}" if len(of_devices) > 1 else str(number)
            known = communication is not None and hidden is not None
            records.append(
                {
                    "name": name,
                    "rank": number,
                    "communication": communication / steps if communication is not None else None,
                    "hidden": hidden / steps if hidden is not None else None,
                    "exposed": (communication - hidden) / steps if communication is not None and hidden is not None else None,
                    "overlap": hidden / communication if known and communication and hidden is not None else None,
                }
            )
    return records


def _of_devices(trace: Trace) -> dict[str, tuple[int | None, int | None]]:
    """Of every device, the time of communication, and that of it which is hidden."""
    work = work_of(trace)
    if work.communication is None or work.exposed is None:
        return {"": (None, None)}
    if not has_kernels(trace):
        return {"": (work.communication, work.communication - work.exposed)}
    kernels = trace.kernels
    steps = active_steps(trace) if len(trace.steps) else None
    begins, ends = (
        (steps["start"], steps["end"]) if steps is not None else (np.array([0]), np.array([trace.facts.get("duration_ns", 0)]))
    )
    window = Intervals.of(begins, ends)
    sends = np.array([is_collective_kernel(name) for name in trace.strings], dtype=np.bool_)[kernels["name"]]
    computes = ~sends & np.isin(kernels["kind"], (Activity.KERNEL, Activity.INTERVAL))
    names, device = devices_of(trace, kernels)
    found: dict[str, tuple[int | None, int | None]] = {}
    for row, name in enumerate(names):
        compute, communication = (
            Intervals.of(kernels["start"][rows], kernels["end"][rows]) & window
            for rows in (computes & (device == row), sends & (device == row))
        )
        if communication.length:
            found[name] = communication.length, (communication & compute).length
    return found or {"": (0, 0)}
