"""One of the two things that are compared, as rows and totals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, Literal, NamedTuple

from torchprof.analysis.records import Record
from torchprof.comparison.noise import Sample

__all__ = ["BYS", "By", "Row", "Side"]

By = Literal["module", "op", "line", "function", "kernel", "category"]
BYS: Final[tuple[By, ...]] = ("module", "op", "line", "function", "kernel", "category")


NOTHING: Final[Mapping[str, float]] = MappingProxyType({})


class Row(NamedTuple):
    """One row.

    Attributes:
        record: its figures by name, and what it is called.
        samples: of its times, what the steps say, by name.
        own: of figures that contain what is below, what is its own.
    """

    record: Record
    samples: dict[str, Sample]
    own: Mapping[str, float] = NOTHING

    @classmethod
    def of(cls, record: Record) -> Row:
        """The row of a record that has, under ``by_step``, the values of every step of some of its figures."""
        by_step: dict[str, Any] = record.get("by_step", {})
        found = {name: Sample.of(values) for name, values in by_step.items()}
        samples = {name: sample for name, sample in found.items() if sample is not None}
        own = record.get("own", NOTHING)
        return cls({name: value for name, value in record.items() if name not in ("by_step", "own")}, samples, own)

    @property
    def label(self) -> str:
        """What it is called where it stands alone."""
        return str(self.record.get("path") or self.record["name"])


@dataclass(frozen=True)
class Side:
    """One of two things that are compared.

    Attributes:
        kind: what it is: ``"trace"``, ``"estimate"``, ``"summary"``, ``"memory"`` or ``"snapshot"``.
        by: what its rows are.
        rows: what it is made of.
        totals: figures of the whole, as a row.
        lead: the figures of rows that tell best what changed, the first that both sides know is taken.
        conditions: what it was made under, by what that is: figures of other conditions are of something else.
        definitions: of figures that are not always the same, by name, what they are: they are compared only where that is.
        of: what its figures are of: ``"mean of 5 steps"``.
        per_step: whether its figures are of one step; None where it has no steps and needs none.
        evaluations: the part of the steps in its means in which a model was also evaluated: figures per step of a side that has
            some are not those of training alone.
        no_noise: why it is not known how much the times vary; empty where it is.
        losses: rows that its recording had no room for, by table.
        remarks: what must be said of it.
    """

    kind: str
    by: By
    rows: list[Row]
    totals: Row
    lead: tuple[str, ...]
    conditions: dict[str, str] = field(default_factory=dict)
    definitions: dict[str, str] = field(default_factory=dict)
    of: str = ""
    per_step: bool | None = None
    evaluations: float = 0.0
    no_noise: str = ""
    losses: dict[str, int] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
