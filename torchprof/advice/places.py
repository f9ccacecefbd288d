"""Where something happened, how often and for how long: the details of a finding, what takes most first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from torchprof.advice.loop import Loop
from torchprof.analysis.lines.where import most_first
from torchprof.rendering.units import format_count, format_ns

__all__ = ["Place", "Places", "per_step"]


@dataclass(frozen=True, slots=True)
class Place:
    """What happened in one place: how often, and how many nanoseconds it took, in all active steps together."""

    what: str
    where: str
    count: int
    time: int


@dataclass(frozen=True, slots=True)
class Places:
    """Places, what took most first."""

    all: tuple[Place, ...]

    @classmethod
    def of(cls, what: Sequence[str], where: Sequence[str], time: npt.ArrayLike, count: npt.ArrayLike | None = None) -> Self:
        """Sum up what happened.

        Args:
            what, where, time, count: of each: ``"aten::item"``, ``"train.py:31"`` or nothing, nanoseconds, by default 1.
        """
        times: list[int] = np.asarray(time).tolist()
        counts: list[int] = np.asarray(count).tolist() if count is not None else [1] * len(times)
        sums: dict[tuple[str, str], tuple[int, int]] = {}
        for name, place, often, took in zip(what, where, counts, times, strict=True):
            before = sums.get((name, place), (0, 0))
            sums[name, place] = before[0] + often, before[1] + took
        return cls(tuple(sorted((Place(*key, *value) for key, value in sums.items()), key=lambda place: -place.time)))

    @property
    def count(self) -> int:
        return sum(place.count for place in self.all)

    @property
    def time(self) -> int:
        return sum(place.time for place in self.all)

    @property
    def lines(self) -> tuple[str, ...]:
        """Where, each once."""
        return tuple(most_first((place.where, place.time) for place in self.all))

    def details(self, loop: Loop) -> tuple[str, ...]:
        """A line for each: ``train.py:31 aten::item, 2 a step, 1.20 ms``."""
        return tuple(
            f"{f'{place.where} ' if place.where else ''}{place.what}, {per_step(place.count, loop)}, "
            f"{format_ns(round(place.time / loop.steps))}"
            for place in self.all
        )


def per_step(count: float, loop: Loop, one: str = "", more: str = "") -> str:
    """A mean with its noun: ``3 ops a step``, ``1 copy a step``; without steps, ``3 ops``.

    Args:
        one, more: the noun, as in `torchprof.wording.counted`.
    """
    mean = count / loop.steps
    number = format_count(round(mean) if mean >= 10 or mean == int(mean) else round(mean, 1))
    noun = "" if not one else f" {one}" if number == "1" else f" {more or one + 's'}"
    return f"{number}{noun} a step" if loop.is_step else f"{number}{noun}"
