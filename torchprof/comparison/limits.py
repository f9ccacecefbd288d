"""Limits of changes, for CI: ``"time > +5%"``, ``"encoder.0: peak < -200 MiB"``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from torchprof.comparison.change import Change
from torchprof.comparison.columns import percent, percent_range
from torchprof.comparison.figures import FIGURES
from torchprof.comparison.noise import Interval
from torchprof.errors import ArgumentError
from torchprof.wording import nearest, shown

__all__ = ["Check", "Limit", "check", "no_such_row"]

UNITS: Final[dict[str, dict[str, float]]] = {
    "ns": {"ns": 1, "us": 1e3, "µs": 1e3, "ms": 1e6, "s": 1e9},
    "bytes": {
        **{"B": 1, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12},
        **{"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40},
    },
    "FLOPs": {"": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15},
    "": {"": 1},
}
"""What amounts of figures may be written in, by the unit of the figure."""
ALIASES: Final = {"step": "time", "reserved": "max_reserved", "memory": "peak", "recomputation": "recompute"}
GRAMMAR: Final = re.compile(
    r"\s*(?:(?P<row>.+):)?\s*(?P<figure>[A-Za-z_]+)\s*(?P<than>[<>])\s*(?P<amount>[+-]?(?:\d[\d_]*\.?\d*|\.\d+))"
    r"\s*(?P<unit>%|[A-Za-zµ]*)\s*"
)
EXAMPLES: Final = '"time > +5%", "peak > +200 MiB", "encoder.0: forward > +1 ms"'


@dataclass(frozen=True, slots=True)
class Limit:
    """What a change may not pass.

    Attributes:
        text: as it was written.
        row: of which row; empty: of the whole.
        figure: name of the figure.
        than: ``">"``: it may not be more; ``"<"``: not less.
        amount: a part of A where ``of_a``; else in the unit of the figure.
        of_a: whether it is a percentage.
    """

    text: str
    row: str
    figure: str
    than: Literal["<", ">"]
    amount: float
    of_a: bool

    @classmethod
    def parse(cls, text: str) -> Limit:
        """Read a limit.

        Raises:
            ArgumentError: it is none: says what is wrong.
        """
        found = GRAMMAR.fullmatch(text) if isinstance(text, str) else None
        if found is None:
            raise ArgumentError(f"limit {shown(text)} cannot be read: write it like {EXAMPLES}")
        name = ALIASES.get(found["figure"].lower(), found["figure"].lower())
        if name not in FIGURES:
            near = nearest(name, [*FIGURES, *ALIASES])
            raise ArgumentError(
                f"limit {shown(text)}: there is no figure {found['figure']!r}"
                + (f"; is it {near!r}?" if near else f": use one of {', '.join(FIGURES)}")
            )
        amount, unit = float(found["amount"].replace("_", "")), found["unit"]
        if unit != "%":
            units = UNITS[FIGURES[name].quantity.unit]
            scale = {each.lower(): size for each, size in units.items()} if FIGURES[name].quantity.unit != "FLOPs" else units
            key = unit.lower() if FIGURES[name].quantity.unit != "FLOPs" else unit
            if key not in scale:
                allowed = ", ".join(["%", *(each for each in units if each)])
                raise ArgumentError(f"limit {shown(text)}: {name} is not in {unit or 'plain numbers'}: use one of {allowed}")
            if found["amount"][0] not in "+-":
                sign = "+" if found["than"] == ">" else "-"
                signed = f"{sign}{found['amount']} {unit}".rstrip()
                raise ArgumentError(f"limit {shown(text)} has no sign: a limit is of the change, such as {signed}")
            amount *= scale[key]
        than: Literal["<", ">"] = ">" if found["than"] == ">" else "<"
        return cls(text.strip(), (found["row"] or "").strip(), name, than, amount / 100 if unit == "%" else amount, unit == "%")

    def is_passed(self, value: float) -> bool:
        """Whether a change is beyond it."""
        return value > self.amount if self.than == ">" else value < self.amount

    def is_passed_by_all(self, ends: Interval) -> bool:
        """Whether a change is beyond it wherever in this interval it is."""
        return self.is_passed(ends.low) if self.than == ">" else self.is_passed(ends.high)


@dataclass(frozen=True, slots=True)
class Check:
    """A limit, and whether it was passed. ``str()`` is a sentence.

    Attributes:
        limit: as it was written.
        failed: whether the change is beyond it, or cannot be told.
        why: what was found.
    """

    limit: str
    failed: bool
    why: str

    def __str__(self) -> str:
        return f"{'FAILED' if self.failed else 'passed'}: {self.limit}: {self.why}"


def check(limit: Limit, change: Change, *, strict: bool) -> Check:
    """Hold a change against a limit.

    What is not known fails: it cannot be told that the limit was kept. A time beyond the limit does so only where all of its
    interval or most steps are beyond it, or where noise is not known.

    Args:
        strict: a time fails wherever it is beyond the limit, noise or not.
    """
    write = change.figure.write
    values = f"{write(change.a)} → {write(change.b)}"
    value = change.fraction if limit.of_a else change.difference
    if change.difference is None:
        return Check(limit.text, True, f"it cannot be told: {change.unknown_because}")
    if value is None:
        return Check(limit.text, limit.than == ">", f"{values}: there was none in A, and a part of it is no number")
    ends = change.fraction_interval if limit.of_a else change.interval
    text = percent(value) if limit.of_a else change.figure.write_signed(value)
    if ends is not None:
        low, high = (change.figure.write_signed(end) for end in ends)
        text += f" ({percent_range(*ends)})" if limit.of_a else f" ({low} to {high})"
    text = f"{values}, {text}"
    if not limit.is_passed(value):
        return Check(limit.text, False, text)
    if not change.figure.is_time:
        return Check(limit.text, True, text)
    if change.interval is None:
        return Check(limit.text, True, f"{text}; its noise is not known")
    if ends is not None and limit.is_passed_by_all(ends):  # None: A may be 0, and the change any part of it
        return Check(limit.text, True, text)
    if change.mostly_beyond(limit.amount, of_a=limit.of_a) == (1 if limit.than == ">" else -1):
        return Check(limit.text, True, f"{text}; beyond the limit in most steps")
    return Check(limit.text, strict, f"{text}; beyond the limit, but within noise")


def no_such_row(name: str, names: Sequence[str], by: str) -> ArgumentError:
    """The exception for a limit of a row that there is not."""
    near = nearest(name, names)
    other = f": is it {near!r}?" if near else "; rows by something else have other names"
    return ArgumentError(f"there is no row {shown(name)} by {by}{other}")
