"""Ops of threads that the program has beside the one that is estimated, such as those of a loader of data."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np

from torchprof.trace.schema import OP_NESTED
from torchprof.trace.trace import Trace

__all__ = ["without_other_threads"]


def without_other_threads(trace: Trace) -> Trace:
    """The trace in which only ops of the calling thread count FLOPs and bytes: those of others are no part of the step."""
    own = np.flatnonzero(trace.threads["native_id"] == threading.get_native_id())
    others = ~np.isin(trace.ops["thread"], own)
    if not others.any():
        return trace
    ops = trace.ops.copy()
    ops["flags"][others] |= OP_NESTED
    return replace(trace, ops=ops)
