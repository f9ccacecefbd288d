"""One figure of both sides, and what can be said of their difference."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

from torchprof.comparison.figures import Figure
from torchprof.comparison.noise import CONFIDENCE, Interval, Sample, difference_interval, mostly, ratio_interval

__all__ = ["LOWER_BOUND", "Change", "Verdict"]

Verdict = Literal[
    "unknown", "same", "within noise", "noise unknown", "slower", "faster", "mostly slower", "mostly faster", "more", "less"
]

MOSTLY: Final[dict[int, Verdict]] = {-1: "mostly faster", 0: "within noise", 1: "mostly slower"}
ROUNDED: Final = 1e-9
"""How far two means of the same numbers may lie apart, as a part of them."""
LOWER_BOUND: Final = "a lower bound"
"""How the reason ends for which a difference is not known where a figure may be more."""


class Change(NamedTuple):
    """A figure in A and in B.

    Attributes:
        figure: which.
        a, b: its value on either side; None where it is not known. Of what is not there, it is 0.
        unknown_because: why their difference is not known; empty where it is.
        sample_a, sample_b: of a time, what its steps say; None where that is not known.
        outside: the probability with which an interval may miss.
    """

    figure: Figure
    a: float | None
    b: float | None
    unknown_because: str = ""
    sample_a: Sample | None = None
    sample_b: Sample | None = None
    outside: float = 1 - CONFIDENCE

    @property
    def difference(self) -> float | None:
        """b less a; None where either is not known."""
        return None if self.a is None or self.b is None or self.unknown_because else self.b - self.a

    @property
    def fraction(self) -> float | None:
        """The difference as a part of a; None where it is not known, or a is 0 and b is not."""
        if self.difference is None or self.a is None:
            return None
        return self.difference / self.a if self.a else 0.0 if not self.difference else None

    @property
    def interval(self) -> Interval | None:
        """Where the difference is, in the unit of the figure; None where its noise is not known."""
        if self.sample_a is None or self.sample_b is None or self.difference is None:
            return None
        return difference_interval(self.sample_a, self.sample_b, self.outside)

    @property
    def fraction_interval(self) -> Interval | None:
        """Where the difference is as a part of a; None where its noise is not known, or a may be 0."""
        if self.sample_a is None or self.sample_b is None or self.difference is None:
            return None
        found = ratio_interval(self.sample_a, self.sample_b, self.outside)
        return Interval(found.low - 1, found.high - 1) if found is not None else None

    def mostly_beyond(self, amount: float, *, of_a: bool) -> int:
        """Whether most steps take longer than in A and this amount more (1), or less (-1); 0 where that may be chance.

        Args:
            of_a: the amount is a part of A.
        """
        if self.sample_a is None or self.sample_b is None:
            return 0
        values = self.sample_a.values
        return mostly(values * (1 + amount) if of_a else values + amount, self.sample_b.values, self.outside)

    @property
    def verdict(self) -> Verdict:
        """In a word."""
        if self.difference is None:
            return "unknown"
        assert self.a is not None
        if abs(self.difference) <= ROUNDED * abs(self.a):
            return "same"
        if self.figure.is_time:
            interval = self.interval
            if interval is None:
                return "noise unknown"
            if interval.low <= 0 <= interval.high:
                return MOSTLY[self.mostly_beyond(0.0, of_a=False)]
            return "slower" if self.difference > 0 else "faster"
        return "more" if self.difference > 0 else "less"
