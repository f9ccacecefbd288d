"""Idle time of devices by cause, module, op and line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from torchprof.analysis.gpu.gaps import CAUSES, Gaps
from torchprof.analysis.gpu.launchers import kernel_launchers, op_label
from torchprof.analysis.groups import Groups
from torchprof.analysis.lines.where import lines_of_launches, numbered
from torchprof.analysis.lookups import modules_of_calls, names_of_ops
from torchprof.trace.trace import Trace

__all__ = ["Idle", "idle_times"]


@dataclass(frozen=True, slots=True)
class Idle:
    """Idle time of one cause in one place.

    Attributes:
        cause: one of ``CAUSES``.
        module, op: those that launched the kernel after the gap; for synchronization, those that waited.
        line: of the program, that of the same, as ``train.py:31``; empty where it is not known.
        gaps, time: the number of gaps, and nanoseconds.
    """

    cause: str
    module: str
    op: str
    gaps: int
    time: int
    line: str = ""


def idle_times(trace: Trace, gaps: Sequence[Gaps], labels: Sequence[str]) -> list[Idle]:
    """Idle time by cause, module, op and line, most first; it adds up to the gaps.

    Args:
        gaps: those of every device.
        labels: of modules, as `module_labels` returns them.
    """
    if not gaps:
        return []
    parts = np.concatenate([each.parts for each in gaps], axis=1)
    kernel, wait = (np.concatenate([getattr(each, name) for each in gaps]) for name in ("kernel", "wait"))
    modules, ops = kernel_launchers(trace)
    launch_bound, synchronization, other = (part > 0 for part in parts)
    waits = trace.runtime_calls[wait[synchronization]]
    launched = trace.kernels[kernel]
    places = [
        (modules[kernel[launch_bound]], ops[kernel[launch_bound]], launched[launch_bound]),
        (modules_of_calls(trace, waits["module_call"]), names_of_ops(trace, waits["op"]), waits),
        (modules[kernel[other]], ops[kernel[other]], launched[other]),
    ]
    found = []
    for cause, (module, op, rows), time in zip(CAUSES, places, parts, strict=True):
        lines = lines_of_launches(trace, rows)
        groups = Groups.by([module, op, numbered(lines)])
        sums = groups.sums(time[time > 0])
        for first, count, total in zip(groups.first.tolist(), groups.count.tolist(), sums.tolist(), strict=True):
            found.append(Idle(cause, labels[module[first]], op_label(trace, int(op[first])), count, total, lines[first]))
    return sorted(found, key=lambda idle: -idle.time)
