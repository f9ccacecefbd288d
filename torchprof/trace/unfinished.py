"""Kernels that had not ended when the recording did: why they are missing is told by the launches that have none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from torchprof.trace.schema import RuntimeCallKind
from torchprof.wording import counted

if TYPE_CHECKING:
    from torchprof.trace.trace import Trace

__all__ = ["unfinished_kernels", "unfinished_text"]

LAUNCHES: Final = (RuntimeCallKind.LAUNCH, RuntimeCallKind.COPY, RuntimeCallKind.MEMSET)
"""Calls that make one row of ``kernels``."""


def unfinished_kernels(trace: Trace) -> int:
    """How many of the kernels, copies and fills that are lost had not ended when the recording did.

    They are the last that their threads launched, and less than half of the budget was used, so that there was room for them.
    The recording waits for the device before it ends: another thread launched these meanwhile. Of sums (``aggregate=True``)
    it cannot be told: 0.
    """
    lost, budget = trace.losses.get("kernels", 0), trace.facts.get("budget", 0)
    if not lost or 2 * trace.nbytes > budget:
        return 0
    calls = trace.runtime_calls
    launches = np.flatnonzero(np.isin(calls["kind"], LAUNCHES))
    has_kernel = np.isin(launches, trace.kernels["runtime_call"])
    last = 0
    for thread in np.unique(calls["thread"][launches]):
        of_thread = calls["thread"][launches] == thread
        in_order = np.argsort(calls["start"][launches[of_thread]], kind="stable")
        backwards = has_kernel[of_thread][in_order][::-1]
        last += int(np.argmax(backwards)) if backwards.any() else len(backwards)
    return min(lost, last)


def unfinished_text(count: int) -> str:
    """What is said of so many of them.

    Example:
        >>> unfinished_text(1)
        '1 kernel was still running when the recording ended: end it when the threads that launch are done'
    """
    which = counted(count, "kernel was", "kernels were")
    return f"{which} still running when the recording ended: end it when the threads that launch are done"
