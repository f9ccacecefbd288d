"""What the spread over steps allows to say of the difference of two means.

The interval of a difference is Welch's (B. L. Welch, The generalization of Student's problem when several different population
variances are involved, Biometrika 34, 1947); that of a ratio is Fieller's (E. C. Fieller, Some problems in interval estimation,
JRSS B 16, 1954) with the same t, so that one has 0 in it exactly where the other has 1.

Steps that follow each other are alike: a machine that is slow now is still slow in the next step. From ten steps on, the
correlation of neighbors is estimated (corrected for its bias: F. H. C. Marriott and J. A. Pope, Biometrika 41, 1954), and the
steps count as the number of independent ones that tell as much (F. W. Zwiers and H. von Storch, Taking serial correlation into
account in tests of the mean, Journal of Climate 8, 1995). Fewer steps are taken to be independent.

What differs from run to run and not from step to step (where memory came to lie, what else the machine did, how warm it was) is
known to neither: one run of each side cannot tell it. So a time is called slower or faster only where all of its interval, or
most steps, are beyond 5% of the shorter of both. On a machine that does other things meanwhile, runs differ by more than that.
Where the same ops ran on both sides, a time that differs is said to be of the same ops: then it may be the machine's.

A few steps that took much longer make the interval of a mean wide. Where 0 is in it, the ranks of the steps still tell whether
most of those of one side are longer: Welch's t of them (W. J. Conover and R. L. Iman, Rank transformations as a bridge between
parametric and nonparametric statistics, The American Statistician 35, 1981), at a fifth of the probability to be wrong.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from torchprof.comparison.student import student_quantile

__all__ = [
    "CONFIDENCE",
    "CORRELATED_FROM",
    "LEAST_STEPS",
    "RUN_TO_RUN",
    "Interval",
    "Sample",
    "beyond_runs",
    "difference_interval",
    "mostly",
    "ratio_interval",
]

Values = npt.NDArray[np.float64]

CONFIDENCE: Final = 0.95
RUN_TO_RUN: Final = 0.05
"""By which part of it two runs of the same code on the same machine may differ, though their steps do not."""
LEAST_STEPS: Final = 3
"""Of fewer steps, the spread says nothing."""
CORRELATED_FROM: Final = 10
"""Steps of which the correlation of neighbors can be estimated."""
MOST_CORRELATED: Final = 0.99
LEAST_WORTH: Final = 3.0
"""However alike steps are: an estimate from few of them is a rough one."""
SMALL: Final = 1e-9
LEAST_RANKED: Final = 5
OF_RANKS: Final = 0.2
"""How much of the probability to be wrong falls to ranks."""


class Interval(NamedTuple):
    """From where to where a figure may be."""

    low: float
    high: float


class Sample(NamedTuple):
    """A mean over steps.

    Attributes:
        mean: over the steps.
        error: standard error of the mean; 0 of what does not vary.
        freedom: its degrees of freedom.
        values: one for each step.
    """

    mean: float
    error: float
    freedom: float
    values: Values

    @classmethod
    def of(cls, values: npt.NDArray[np.floating] | npt.NDArray[np.integer]) -> Sample | None:
        """The sample of one value per step; None where there are too few."""
        steps, values = len(values), np.asarray(values, dtype=np.float64)
        if steps < LEAST_STEPS:
            return None
        mean = float(values.mean())
        apart = values - mean
        squares = float(apart @ apart)
        if squares <= (SMALL * mean) ** 2 * steps:
            return cls(mean, 0.0, steps - 1, values)
        worth = float(steps)
        if steps >= CORRELATED_FROM:
            found = float(apart[1:] @ apart[:-1]) / squares
            correlation = min(max((steps * found + 1) / (steps - 4), 0.0), MOST_CORRELATED)
            worth = max(steps * (1 - correlation) / (1 + correlation), LEAST_WORTH)
        return cls(mean, math.sqrt(squares / (steps - 1) / worth), worth - 1, values)

    @classmethod
    def nothing(cls, like: Sample) -> Sample:
        """The sample of what was not there: 0 in every step, of as many steps."""
        return cls(0.0, 0.0, like.freedom, np.zeros(len(like.values)))


def _t(a: Sample, b: Sample, scale: float, outside: float) -> float:
    """Student's t for the difference of b and a scaled a, with the degrees of freedom that Welch gives it."""
    va, vb = (scale * a.error) ** 2, b.error**2
    if not va + vb:
        return 0.0
    freedom = (va + vb) ** 2 / (va**2 / a.freedom + vb**2 / b.freedom)
    return student_quantile(outside, max(freedom, 1.0))


def difference_interval(a: Sample, b: Sample, outside: float = 1 - CONFIDENCE) -> Interval:
    """Where the difference of the means, b less a, is, but for this probability."""
    half = _t(a, b, 1.0, outside) * math.hypot(a.error, b.error)
    difference = b.mean - a.mean
    return Interval(difference - half, difference + half)


def ratio_interval(a: Sample, b: Sample, outside: float = 1 - CONFIDENCE) -> Interval | None:
    """Where the ratio of the means, b to a, is, but for this probability; None where a may be 0.

    Means are of what is never negative.
    """
    t = _t(a, b, 1.0, outside)
    # The ratios r for which |b - r a| <= t * the standard error of b - r a: between the roots of a parabola.
    square, linear, rest = a.mean**2 - (t * a.error) ** 2, a.mean * b.mean, b.mean**2 - (t * b.error) ** 2
    if square <= 0 or a.mean <= 0:
        return None
    root = math.sqrt(max(linear**2 - square * rest, 0.0))
    return Interval(max((linear - root) / square, 0.0), (linear + root) / square)


def beyond_runs(a: Sample, b: Sample, outside: float = 1 - CONFIDENCE) -> int:
    """Whether b is longer than a by more than runs of the same code may differ (1), or a than b (-1); 0: neither is sure.

    By the interval of the means or, where a few steps make that wide, by most steps.
    """

    def is_longer(one: Sample, other: Sample) -> bool:
        more = 1 + RUN_TO_RUN
        most = Sample(more * other.mean, more * other.error, other.freedom, more * other.values)
        by_ranks = mostly(most.values, one.values, outside)
        return difference_interval(most, one, outside).low > 0 or by_ranks == 1

    return int(is_longer(b, a)) - int(is_longer(a, b))


def mostly(a: Values, b: Values, outside: float = 1 - CONFIDENCE) -> int:
    """Whether most steps are longer in b than in a (1), or shorter (-1); 0 where that may be chance, by ranks."""
    outside *= OF_RANKS
    if min(len(a), len(b)) < LEAST_RANKED or 2 / math.comb(len(a) + len(b), len(a)) > outside:
        return 0
    _, place, count = np.unique(np.concatenate([a, b]), return_inverse=True, return_counts=True)
    ranks = (np.cumsum(count) - (count - 1) / 2)[place]
    ranks_a, ranks_b = Sample.of(ranks[: len(a)]), Sample.of(ranks[len(a) :])
    assert ranks_a is not None
    assert ranks_b is not None
    low, high = difference_interval(ranks_a, ranks_b, outside)
    return int(low > 0) - int(high < 0)
