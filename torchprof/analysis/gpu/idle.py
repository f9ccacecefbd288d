"""Idle time of devices by cause, module, op and line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from torchprof.analysis.gpu.gaps import CAUSES, Gaps
from torchprof.analysis.gpu.launchers import kernel_launchers, op_label
from torchprof.analysis.groups import Groups
from torchprof.analysis.lines.where import lines_of_launches, lines_of_ops, numbered
from torchprof.analysis.lookups import modules_of_calls, names_of_ops
from torchprof.trace.trace import Trace

__all__ = ["Idle", "idle_times"]

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Idle:
    """Idle time of one cause in one place.

    Attributes:
        cause: one of ``CAUSES``.
        module, op: those that launched the kernel after the gap; for data and synchronization, those that waited.
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
    kernel, data, wait = (np.concatenate([getattr(each, name) for each in gaps]) for name in ("kernel", "data", "wait"))
    modules, ops = kernel_launchers(trace)
    launch_bound, for_data, synchronization, other = (part > 0 for part in parts)
    data, waits = data[for_data], trace.runtime_calls[wait[synchronization]]

    def launched(late: npt.NDArray[np.bool_]) -> tuple[Ints, Ints, list[str]]:
        rows = kernel[late]
        return modules[rows], ops[rows], lines_of_launches(trace, trace.kernels[rows])

    waited = modules_of_calls(trace, waits["module_call"]), names_of_ops(trace, waits["op"]), lines_of_launches(trace, waits)
    loaded = modules_of_calls(trace, trace.ops["module_call"][data]), names_of_ops(trace, data), lines_of_ops(trace, data)
    places = [launched(launch_bound), loaded, waited, launched(other)]
    found = []
    for cause, (module, op, lines), time in zip(CAUSES, places, parts, strict=True):
        groups = Groups.by([module, op, numbered(lines)])
        sums = groups.sums(time[time > 0])
        for first, count, total in zip(groups.first.tolist(), groups.count.tolist(), sums.tolist(), strict=True):
            found.append(Idle(cause, labels[module[first]], op_label(trace, int(op[first])), count, total, lines[first]))
    return sorted(found, key=lambda idle: -idle.time)
