"""One figure of both sides, and what can be said of their difference."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

from torchprof.comparison.figures import Figure
from torchprof.comparison.noise import CONFIDENCE, Interval, Sample, beyond_runs, difference_interval, mostly, ratio_interval

__all__ = ["Change", "Verdict"]

Verdict = Literal[
    "unknown",
    "same",
    "within noise",
    "within run-to-run noise",
    "noise unknown",
    "slower",
    "faster",
    "mostly slower",
    "mostly faster",
    "slower, same ops",
    "faster, same ops",
    "mostly slower, same ops",
    "mostly faster, same ops",
    "more",
    "less",
]

MOSTLY: Final[dict[int, Verdict]] = {-1: "mostly faster", 0: "within noise", 1: "mostly slower"}
SURE: Final[dict[int, Verdict]] = {-1: "faster", 0: "within run-to-run noise", 1: "slower"}
SAME_OPS: Final[dict[Verdict, Verdict]] = {
    "slower": "slower, same ops",
    "faster": "faster, same ops",
    "mostly slower": "mostly slower, same ops",
    "mostly faster": "mostly faster, same ops",
}
ROUNDED: Final = 1e-9
"""How far two means of the same numbers may lie apart, as a part of them."""


class Change(NamedTuple):
    """A figure in A and in B.

    Attributes:
        figure: which.
        a, b: its value on either side; None where it is not known. Of what is not there, it is 0.
        unknown_because: why their difference is not known; empty where it is.
        sample_a, sample_b: of a time, what its steps say; None where that is not known.
        outside: the probability with which an interval may miss.
        bounds: the sides on which it is a lower bound: "", "A", "B" or "AB".
        same_ops: of the whole, whether the same work was done on both sides: then nothing but the time tells that it changed.
    """

    figure: Figure
    a: float | None
    b: float | None
    unknown_because: str = ""
    sample_a: Sample | None = None
    sample_b: Sample | None = None
    outside: float = 1 - CONFIDENCE
    same_ops: bool = False
    bounds: str = ""

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
            found = self._of_time(self.difference)
            return SAME_OPS.get(found, found) if self.same_ops else found
        return "more" if self.difference > 0 else "less"

    def _of_time(self, difference: float) -> Verdict:
        """In a word: a time is slower or faster where it is by more than both steps and runs of the same code may differ."""
        interval = self.interval
        if interval is None or self.sample_a is None or self.sample_b is None:
            return "noise unknown"
        beyond = beyond_runs(self.sample_a, self.sample_b, self.outside)
        if not interval.low <= 0 <= interval.high:
            return SURE[beyond if beyond * difference > 0 else 0]
        if not (most := self.mostly_beyond(0.0, of_a=False)):
            return "within noise"
        return MOSTLY[most] if beyond == most else "within run-to-run noise"
