"""When ranks came to what they do together, and who came last.

A rank comes to a collective when it asks for it or, where a kernel runs it, when the kernel begins. Who came last is told where
no other rank may have, as far as the clocks of both may be off. Ranks that come within a microsecond come together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from torchprof.analysis.distributed.clocks import Clocks, clocks_of
from torchprof.analysis.distributed.collectives import Collective
from torchprof.analysis.distributed.matched import SYNCHRONIZING, Match, matched
from torchprof.analysis.gpu.backend import has_kernels
from torchprof.analysis.remembered import remembered
from torchprof.trace.ranks import Ranks
from torchprof.trace.trace import Trace

__all__ = ["Arrivals", "arrivals", "median"]

TOGETHER: Final = 1_000
"""Nanoseconds within which ranks come together: a clock is not read more exactly."""
FAR: Final = 2**61
"""Nanoseconds by which clocks may be apart that nothing ties to each other."""


@dataclass(frozen=True, slots=True)
class Arrivals:
    """When ranks came to a collective. Times are nanoseconds.

    Attributes:
        match: the collective.
        came: by rank, in its own trace.
        at: the same by one clock.
        rank: who came last.
        median: of the others.
        error: how far ``late`` may be off, by the clocks; None: it is not known.
        rivals: other ranks that may have come last instead, by the error of the clocks.
    """

    match: Match
    came: Mapping[int, int]
    at: Mapping[int, int]
    rank: int
    median: int
    error: int | None
    rivals: tuple[int, ...]

    @classmethod
    def of(cls, match: Match, came: Mapping[int, int], clocks: Clocks) -> Arrivals:
        """Those of ranks that came so."""
        at = {number: time + clocks.origins[number] for number, time in came.items()}
        rank = max(at, key=lambda number: at[number])
        others = [number for number in at if number != rank]
        middle = median([at[number] for number in others])
        if len(clocks.clocks) == 1:
            return cls(match, came, at, rank, middle, 0, ())
        apart = {number: clocks.apart(rank, number) for number in others}
        latest = {number: at[number] + (FAR if off is None else off) for number, off in apart.items()}
        error = median(list(latest.values())) - middle
        rivals = tuple(number for number, off in apart.items() if off != 0 and latest[number] >= at[rank])
        return cls(match, came, at, rank, middle, error if error < FAR // 4 else None, rivals)

    @property
    def latest(self) -> int:
        """When the last one came."""
        return self.at[self.rank]

    @property
    def late(self) -> int:
        """From the median of the others to the last one."""
        return self.latest - self.median

    @property
    def is_together(self) -> bool:
        """Whether all came at once."""
        return self.error == 0 and self.late <= TOGETHER

    @property
    def is_told(self) -> bool:
        """Whether ``rank`` came last, and by more than the clocks may be off."""
        return self.error is not None and self.late > max(TOGETHER, self.error) and not self.rivals

    def of_rank(self, number: int) -> int:
        """By how much this rank came after the others; 0 where it did not."""
        return max(0, self.at[number] - median([time for other, time in self.at.items() if other != number]))


@remembered
def arrivals(ranks: Ranks) -> tuple[Arrivals, ...]:
    """Of every collective that waits for all of its ranks; in the order of `matched`."""
    clocks = clocks_of(ranks)
    traces = dict(zip(ranks.numbers, ranks, strict=True))
    return tuple(
        Arrivals.of(match, {number: _came(traces[number], call) for number, call in match.calls.items()}, clocks)
        for match in matched(ranks).matches
        if match.kind in SYNCHRONIZING
    )


def _came(trace: Trace, call: Collective) -> int:
    if call.entered is not None and has_kernels(trace):
        return call.entered
    return int(trace.ops["start"][call.op])


def median(values: Sequence[int]) -> int:
    """The median of whole numbers, as one."""
    return int(np.median(np.array(values, dtype=np.int64)))
