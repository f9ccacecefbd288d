"""Ops whose results selective checkpointing has saved: backward calls them again, and they are not run."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from torchprof.analysis.spans import closed_ends
from torchprof.trace.schema import OP_NESTED, Phase, phases
from torchprof.trace.trace import Trace

__all__ = ["with_saved_results"]


def with_saved_results(trace: Trace) -> Trace:
    """The trace in which such ops count nothing: neither FLOPs nor bytes, and nobody wonders how many there are.

    What is run on fake tensors allocates its results, and what was saved does not.
    """
    recomputed = phases(trace.ops) == Phase.RECOMPUTATION
    if not recomputed.any() or not len(trace.allocations):
        return trace
    saved = recomputed & ~_allocates(trace) & ~_in_place(trace)[trace.ops["signature"]]
    ops = trace.ops.copy()
    ops["flags"][saved] |= OP_NESTED
    return replace(trace, ops=ops)


def _allocates(trace: Trace) -> npt.NDArray[np.bool_]:
    """Whether anything is allocated in each op, or in what is inside it."""
    times = np.sort(trace.allocations["start"])
    ends = closed_ends(trace, trace.ops)
    found: npt.NDArray[np.bool_] = np.searchsorted(times, ends, "right") > np.searchsorted(times, trace.ops["start"])
    return found


def _in_place(trace: Trace) -> npt.NDArray[np.bool_]:
    """Of each signature, whether it writes to what is there."""
    return np.array([trace.strings[name].endswith("_") for name in trace.signatures["name"].tolist()], dtype=np.bool_)
