"""Which ranks differ from the others, by one rule.

A rank is odd in a figure that differs from the median of all ranks by more than a twentieth of the median step (of bytes: of
their median), by more than five times the usual difference from the median (the median of these, scaled as a standard deviation
of normal values), and by more than three standard errors of its own mean over steps. So it takes at least three ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from torchprof.analysis.records import Record

__all__ = ["LEAST_RANKS", "OddOne", "odd_ones"]

LEAST_RANKS: Final = 3
OF_MEDIAN: Final = 0.05
OF_USUAL: Final = 5.0
OF_ERRORS: Final = 3.0
AS_DEVIATION: Final = 1.4826
"""The standard deviation of normal values for each unit of their median absolute deviation."""


@dataclass(frozen=True, slots=True)
class OddOne:
    """A figure of a rank that differs from those of the others.

    Attributes:
        rank: its number.
        figure: its name.
        value: of this rank.
        median: of all ranks.
        size: the difference, as a fraction of the median step or, of bytes, of their median.
    """

    rank: int
    figure: str
    value: float
    median: float
    size: float


def odd_ones(records: Sequence[Record], times: Sequence[str], others: Sequence[str] = ()) -> list[OddOne]:
    """The odd ones among records with ``rank``, and with ``errors`` of some figures by name; the largest difference first.

    Args:
        times: the figures that are times of a step. The first is the step.
        others: further figures, each of which is seen by itself.
    """
    if len(records) < LEAST_RANKS:
        return []
    found = []
    steps = [record[times[0]] for record in records if record[times[0]] is not None]
    step = float(np.median(steps)) if steps else 0.0
    for figure in (*times, *others):
        known = [(record, float(record[figure])) for record in records if record[figure] is not None]
        if len(known) < LEAST_RANKS:
            continue
        values = np.array([value for _, value in known])
        median = float(np.median(values))
        away = np.abs(values - median)
        whole = step if figure in times else median
        least = max(OF_MEDIAN * whole, OF_USUAL * AS_DEVIATION * float(np.median(away)))
        for (record, value), distance in zip(known, away.tolist(), strict=True):
            error = record.get("errors", {}).get(figure, 0.0)
            if whole and distance > max(least, OF_ERRORS * error):
                found.append(OddOne(record["rank"], figure, value, median, distance / whole))
    return sorted(found, key=lambda odd: -odd.size)
