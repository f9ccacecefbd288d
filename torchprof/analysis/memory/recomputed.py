"""The peak that a step would have, were calls of some modules checkpointed.

What a checkpoint drops is freed where the call ends, and there again, computed once more, from where its backward begins.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from torchprof.analysis.memory.account import MemoryAccount
from torchprof.analysis.memory.changes import Changes
from torchprof.analysis.memory.checkpoints import Drops, step_of_peak
from torchprof.analysis.steps import NEVER
from torchprof.trace.schema import Phase, phases
from torchprof.trace.trace import Trace

__all__ = ["CheckpointedPeaks"]

Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


class CheckpointedPeaks:
    """Peaks with checkpoints, of the step in which the peak is.

    Args:
        account: of the step without them.
        what: what checkpoints of its calls would drop.
    """

    def __init__(self, account: MemoryAccount, what: Drops) -> None:
        self._account, self._what = account, what
        self._changes = Changes(account.allocations)
        self._begin, self._end = step_of_peak(account)
        self._backward = _begin_of_backward(account.trace)

    def calls_of_step(self) -> Flags:
        """Which calls are of that step."""
        start = self._account.trace.module_calls["start"]
        return (start >= self._begin) & (start < self._end)

    def peak(self, calls: Flags) -> int:
        """The most that would be held, in bytes, were these calls checkpointed, none of them inside another."""
        own = calls[self._what.calls]
        rows, first = np.unique(self._what.rows[own], return_index=True)
        of_rows = self._what.calls[own][first]
        blocks = self._account.allocations[rows]
        freed_at = self._account.trace.module_calls["end"][of_rows].astype(np.int64)
        there_again = self._backward[of_rows]
        until = np.where(blocks["end"] < 0, NEVER, blocks["end"])
        drops = freed_at < np.minimum(until, there_again)
        again = drops & (there_again < until)
        sizes = blocks["bytes"].astype(np.int64)
        # A block that was freed before its backward began would be freed twice: its own end counts no more.
        ended = drops & ~again & (until < NEVER)
        times = np.concatenate([self._changes.times, freed_at[drops], there_again[again], until[ended]])
        bytes_ = np.concatenate([self._changes.bytes, -sizes[drops], sizes[again], sizes[ended]])
        order = np.argsort(times, kind="stable")
        held = self._changes.held_before + np.cumsum(bytes_[order])
        inside = held[(times[order] >= self._begin) & (times[order] < self._end)]
        return int(inside.max(initial=0)) + self._account.untracked


def _begin_of_backward(trace: Trace) -> Ints:
    """When backward of each call begins, with that of the calls inside it; `NEVER` where it does not."""
    calls, ops = trace.module_calls, trace.ops
    found = np.full(len(calls), NEVER, dtype=np.int64)
    rows = np.flatnonzero((phases(ops) == Phase.BACKWARD) & (ops["module_call"] >= 0))
    np.minimum.at(found, ops["module_call"][rows], ops["start"][rows].astype(np.int64))
    for call, parent in reversed(list(enumerate(calls["parent"].tolist()))):
        if parent >= 0 and found[call] < found[parent]:
            found[parent] = found[call]
    return found
