"""Waits: runtime calls in which the host waited for a device.

These are calls that return when a device is done (``RuntimeCallKind.SYNCHRONIZE``); calls that allocate memory from the driver
or free it (``RuntimeCallKind.MEMORY``: these block the host, and many synchronize); and copies whose call returned no earlier
than the copy had ended.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from torchprof.analysis.gpu.launchers import op_label
from torchprof.analysis.groups import Groups
from torchprof.analysis.lines.where import lines_of_launches, numbered
from torchprof.analysis.lookups import modules_of_calls, names_of_ops
from torchprof.analysis.steps import active_steps, step_of
from torchprof.trace.schema import SCOPE_FUNCTION, Activity, RuntimeCallKind
from torchprof.trace.trace import Trace

__all__ = ["Waits", "host_waits", "outermost_ops", "waiting_calls"]

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Waits:
    """Waits of the host for a device in one place.

    Attributes:
        op: the outermost op that waited, such as ``aten::item``; ``(no op)`` where there is none.
        inner: the innermost, such as ``aten::_local_scalar_dense``.
        module: the module that it ran in.
        call: the runtime call.
        line: of the program, as ``train.py:31``; empty where it is not known.
        count, time: the number of waits, and nanoseconds of host time.
    """

    op: str
    inner: str
    module: str
    call: str
    count: int
    time: int
    line: str = ""


def host_waits(trace: Trace, labels: Sequence[str]) -> list[Waits]:
    """Waits in active steps by op, module, runtime call and line, most time first.

    Args:
        labels: of modules, as `module_labels` returns them.
    """
    calls = trace.runtime_calls[waiting_calls(trace)]
    calls = calls[step_of(calls["start"], trace, active_steps(trace)) >= 0]
    inner = calls["op"].astype(np.int64)
    outer_name, inner_name = names_of_ops(trace, outermost_ops(trace, inner)), names_of_ops(trace, inner)
    module = modules_of_calls(trace, calls["module_call"])
    lines = lines_of_launches(trace, calls)
    groups = Groups.by([outer_name, inner_name, module, calls["name"], numbered(lines)])
    time = groups.sums(calls["end"] - calls["start"])
    waits = [
        Waits(
            op_label(trace, int(outer_name[first])),
            op_label(trace, int(inner_name[first])),
            labels[module[first]],
            trace.strings[int(calls["name"][first])],
            int(groups.count[group]),
            int(time[group]),
            lines[first],
        )
        for group, first in enumerate(groups.first.tolist())
    ]
    return sorted(waits, key=lambda each: -each.time)


def waiting_calls(trace: Trace) -> Ints:
    """The rows of ``trace.runtime_calls`` in which the host waited for a device."""
    calls, kernels = trace.runtime_calls, trace.kernels
    copies = kernels[(kernels["kind"] == Activity.COPY) & (kernels["runtime_call"] >= 0) & (kernels["end"] != -1)]
    copy_end = np.full(len(calls), np.iinfo(np.int64).max)
    copy_end[copies["runtime_call"]] = copies["end"]
    waits = np.isin(calls["kind"], [RuntimeCallKind.SYNCHRONIZE, RuntimeCallKind.MEMORY])
    waits |= (calls["kind"] == RuntimeCallKind.COPY) & (calls["end"] >= copy_end)
    return np.flatnonzero(waits & (calls["end"] > calls["start"]))


def outermost_ops(trace: Trace, op: Ints) -> Ints:
    """The outermost call of the dispatcher around each op: what the program called."""
    parent, scope = trace.ops["parent"], trace.ops["scope"]
    while True:
        above = np.append(parent.astype(np.int64), -1)[op]
        climbs = (above >= 0) & (np.append(scope, 255)[above] == SCOPE_FUNCTION)
        if not climbs.any():
            return op
        op = np.where(climbs, above, op)
