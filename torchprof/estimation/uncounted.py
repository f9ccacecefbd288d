"""Ops that are no work of the step that is estimated: neither their FLOPs nor their bytes count."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from torchprof.analysis.spans import closed_ends
from torchprof.trace.schema import OP_NESTED, Phase, phases
from torchprof.trace.trace import Trace

__all__ = ["without_uncounted"]


def without_uncounted(trace: Trace) -> Trace:
    """The trace in which these ops count nothing, and nobody wonders how many FLOPs they have."""
    uncounted = _of_other_threads(trace) | _whose_results_are_saved(trace)
    if not uncounted.any():
        return trace
    ops = trace.ops.copy()
    ops["flags"][uncounted] |= OP_NESTED
    return replace(trace, ops=ops)


def _of_other_threads(trace: Trace) -> npt.NDArray[np.bool_]:
    """Of threads that the program has beside the calling one, such as those of a loader of data."""
    own = np.flatnonzero(trace.threads["native_id"] == threading.get_native_id())
    return ~np.isin(trace.ops["thread"], own)


def _whose_results_are_saved(trace: Trace) -> npt.NDArray[np.bool_]:
    """Of selective checkpointing: backward calls them again, and they are not run.

    What is run on fake tensors allocates its results, and what was saved does not.
    """
    recomputed: npt.NDArray[np.bool_] = phases(trace.ops) == Phase.RECOMPUTATION
    if not recomputed.any() or not len(trace.allocations):
        return np.zeros(len(trace.ops), dtype=np.bool_)
    saved: npt.NDArray[np.bool_] = recomputed & ~_allocates(trace) & ~_in_place(trace)[trace.ops["signature"]]
    return saved


def _allocates(trace: Trace) -> npt.NDArray[np.bool_]:
    """Whether anything is allocated in each op, or in what is inside it."""
    times = np.sort(trace.allocations["start"])
    ends = closed_ends(trace, trace.ops)
    found: npt.NDArray[np.bool_] = np.searchsorted(times, ends, "right") > np.searchsorted(times, trace.ops["start"])
    return found


def _in_place(trace: Trace) -> npt.NDArray[np.bool_]:
    """Of each signature, whether it writes to what is there."""
    return np.array([trace.strings[name].endswith("_") for name in trace.signatures["name"].tolist()], dtype=np.bool_)
