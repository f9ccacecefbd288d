"""The steps of a training loop, and the step that a moment lies in."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from torchprof.trace.schema import Rows
from torchprof.trace.trace import Trace

__all__ = ["active_steps", "step_of"]


def active_steps(trace: Trace) -> Rows:
    """The steps that are not warm-up. Only these count in tables and accounts."""
    active: Rows = trace.steps[trace.steps["warmup"] == 0]
    return active


def step_of(times: Rows, trace: Trace, active: Rows) -> npt.NDArray[np.int64]:
    """The index of the active step that each time lies in; -1 for none. Without steps, everything is in step 0."""
    if not len(trace.steps):
        return np.zeros(len(times), dtype=np.int64)
    if not len(active):
        return np.full(len(times), -1, dtype=np.int64)
    step = np.searchsorted(active["start"], times, side="right") - 1
    return np.where((step >= 0) & (times < active["end"][step]), step, -1)
