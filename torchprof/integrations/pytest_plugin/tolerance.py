"""How far a figure may be from that of the baseline."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

import pytest

__all__ = ["COMPARED", "Tolerances"]

COMPARED: Final = ("peak", "saved", "flops", "ops", "kernels", "syncs", "params")
"""The figures that a baseline has: what is counted, and bytes. Times are no part of it: they are another machine's tomorrow."""
GRAMMAR: Final = re.compile(r"\s*(?:(?P<figure>\w+)\s*=)?\s*(?P<amount>\d+(?:\.\d*)?|\.\d+)\s*%\s*")


@dataclass(frozen=True, slots=True)
class Tolerances:
    """Parts of the figure in the baseline.

    Attributes:
        of_all: of figures that are not named.
        by_figure: of those that are.
    """

    of_all: float = 0.0
    by_figure: Mapping[str, float] = field(default_factory=dict)

    def of(self, figure: str) -> float:
        """That of one figure."""
        return self.by_figure.get(figure, self.of_all)

    @classmethod
    def parse(cls, texts: Iterable[str]) -> Tolerances:
        """Read ``["1%", "peak=5%"]``.

        Raises:
            pytest.UsageError: one cannot be read, or names no figure of a baseline.
        """
        of_all, by_figure = 0.0, {}
        for text in texts:
            found = GRAMMAR.fullmatch(text)
            if found is None:
                raise pytest.UsageError(f"--torchprof-tolerance {text!r} cannot be read: write it like '2%' or 'peak=2%'")
            amount, figure = float(found["amount"]) / 100, found["figure"]
            if figure is None:
                of_all = amount
            elif figure in COMPARED:
                by_figure[figure] = amount
            else:
                raise pytest.UsageError(
                    f"--torchprof-tolerance {text!r}: a baseline has no figure {figure!r}: use one of {', '.join(COMPARED)}"
                )
        return cls(of_all, by_figure)
