"""The changes of rows and totals: every figure that either side has, of what belongs together."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final, NamedTuple

from torchprof.analysis.records import Record
from torchprof.comparison.alignment.align import align
from torchprof.comparison.alignment.pair import Pair
from torchprof.comparison.change import Change
from torchprof.comparison.figures import FIGURES, OF_TOTALS, Figure
from torchprof.comparison.noise import CONFIDENCE, Sample
from torchprof.comparison.side import Row, Side

__all__ = ["SHOWN_BESIDE", "Changed", "changed_rows", "changes_of_totals", "lead_of", "record_of", "same_work"]

SHOWN_BESIDE: Final = tuple("calls count kernels flops_self flops params output_bytes saved at_peak leaked".split())
"""Figures that are no times and whose differences are shown beside the leading one."""
OF_WORK: Final = ("ops", "calls", "count", "kernels", "flops", "flops_self", "params")
"""Figures that are the same where the same was done."""
KEPT: Final = ("type", "params", "file", "line", "function", "source", "full_name", "kind", "category", "module", "launched_by")
"""What rows are said to be, beside their figures."""


class Changed(NamedTuple):
    """A row of both sides, with the changes of its figures by name."""

    pair: Pair
    changes: dict[str, Change]

    def is_changed(self, lead: str) -> bool:
        """Whether there is more to it than noise."""
        return self.has_changed_most(lead) or self.pair.note != "" or any(map(self._is_other, SHOWN_BESIDE))

    def has_changed_most(self, lead: str) -> bool:
        """Whether it is by the leading figure, or because it is there on one side only."""
        change = self.changes.get(lead)
        alone = self.pair.a is None or self.pair.b is None
        if change is None or alone or change.verdict in ("same", "within noise", "within run-to-run noise", "unknown"):
            return alone
        return self.own_difference(lead) != 0

    def own_difference(self, name: str) -> float | None:
        """The difference of a figure, without that of what is below; None where it is not known."""
        own_a, own_b = (row.own.get(name) if row is not None else 0 for row in (self.pair.a, self.pair.b))
        if own_a is not None and own_b is not None:
            return own_b - own_a
        return self.changes[name].difference if name in self.changes else None

    def _is_other(self, name: str) -> bool:
        """Whether a figure that is no time changed, other than in what is below."""
        change = self.changes.get(name)
        if change is None or change.figure.is_time or not change.difference:
            return False
        if name == "flops" and "flops_self" in self.changes:  # of lines, with what was called
            return False
        return self.own_difference(name) != 0

    def verdict(self, lead: str) -> str:
        """In a word."""
        if self.pair.a is None or self.pair.b is None:
            return self.pair.how
        return self.changes[lead].verdict if lead in self.changes else "unknown"


def _known(rows: Collection[Row]) -> set[str]:
    """The figures that any row has."""
    return {name for row in rows for name in row.record if name in FIGURES and row.record[name] is not None}


def lead_of(a: Side, b: Side) -> str:
    """The figure that tells best what changed."""
    both = _known(a.rows) & _known(b.rows)
    return next((name for name in a.lead if name in both), a.lead[-1])


def changed_rows(a: Side, b: Side) -> list[Changed]:
    """All rows, the largest changes first: those that are no noise, by the difference of the leading figure."""
    pairs = align(a, b)
    known_a, known_b = _known(a.rows), _known(b.rows)
    names = [name for name in FIGURES if name in known_a | known_b]
    found = [
        Changed(pair, {name: _change(FIGURES[name], pair, a, b, known_a, known_b, len(pairs)) for name in names})
        for pair in pairs
    ]
    lead = lead_of(a, b)

    def rank(row: Changed) -> tuple[bool, bool, float]:
        sure = row.has_changed_most(lead) and row.verdict(lead) != "noise unknown"
        return not sure, not row.is_changed(lead), -abs(row.own_difference(lead) or 0)

    return sorted(found, key=rank)


def changes_of_totals(a: Side, b: Side) -> list[Change]:
    """The changes of the whole, of every figure that either side knows."""
    pair = Pair(a.totals, b.totals, "same")
    known_a, known_b = _known([a.totals]), _known([b.totals])
    names = [name for name in OF_TOTALS if name in known_a | known_b or ("flops" in name and _bounds(pair, name))]
    found = [_change(FIGURES[name], pair, a, b, known_a, known_b, 1) for name in names]
    return [change for change in found if change.a or change.b or None in (change.a, change.b) or change.bounds]


def same_work(rows: Sequence[Changed], totals: Sequence[Change]) -> bool:
    """Whether the same was done on both sides, as far as figures that are no times tell, and these are known.

    Memory does not count: what it takes may differ from run to run.
    """
    of_work = [change for change in totals if change.figure.name in OF_WORK]
    in_rows = [change for row in rows for name, change in row.changes.items() if name in OF_WORK]
    return (
        any(change.figure.name == "ops" and change.difference is not None for change in of_work)
        and not any(change.difference for change in (*of_work, *in_rows))
        and all(row.pair.a is not None and row.pair.b is not None and not row.pair.note for row in rows)
    )


def _change(figure: Figure, pair: Pair, a: Side, b: Side, known_a: set[str], known_b: set[str], together: int) -> Change:
    """One figure of one row.

    Args:
        together: how many intervals hold at the same time, with the confidence that is said.
    """
    name = figure.name
    value_a, sample_a = _value(pair.a, name, known_a)
    value_b, sample_b = _value(pair.b, name, known_b)
    if pair.a is None and sample_b is not None:
        sample_a = Sample.nothing(sample_b)
    if pair.b is None and sample_a is not None:
        sample_b = Sample.nothing(sample_a)
    missing = [side for side, value in (("A", value_a), ("B", value_b)) if value is None]
    bounds = _bounds(pair, name)
    a_bound = f"in {' and '.join(bounds)} it is a lower bound" if bounds else ""
    why = f"it is not known of {' and '.join(missing)}" if missing else _incomparable(figure, a, b) or a_bound
    return Change(figure, value_a, value_b, why, sample_a, sample_b, (1 - CONFIDENCE) / max(together, 1), bounds=bounds)


def _value(row: Row | None, name: str, known: set[str]) -> tuple[float | None, Sample | None]:
    """A figure and its sample; 0 of a row that is not there, where the side knows this figure of others."""
    if row is None:
        return (0 if name in known else None), None
    return row.record.get(name), row.samples.get(name)


def _incomparable(figure: Figure, a: Side, b: Side) -> str:
    """Why the figures of both sides are not of the same; empty where they are."""
    if figure.is_per_step and a.per_step is not None and b.per_step is not None and a.per_step != b.per_step:
        return f"{'A' if a.per_step else 'B'} is per step, and {'B' if a.per_step else 'A'} is of a recording without steps"
    if (figure.is_per_step or figure.name == "mean") and (a.evaluations > 0) != (b.evaluations > 0):
        with_them, without = ("A", "B") if a.evaluations else ("B", "A")
        return f"steps with an evaluation are in the means of {with_them}, and none is known in those of {without}"
    defined_a, defined_b = a.definitions.get(figure.name), b.definitions.get(figure.name)
    if defined_a is not None and defined_b is not None and defined_a != defined_b:
        return f"in A it is {_lower(defined_a)}, in B {_lower(defined_b)}"
    return ""


def _lower(text: str) -> str:
    return text.removeprefix("Peak and held: ")


def _bounds(pair: Pair, name: str) -> str:
    """The sides on which a figure is not known to the end, and may be more."""
    sides = (("A", pair.a), ("B", pair.b))
    return "".join(side for side, row in sides if row is not None and row.record.get(f"{name}_unknown"))


def record_of(row: Changed, lead: str) -> Record:
    """A row as flat data: of each figure ``_a _b _difference _change`` and, of times, ``_low _high``."""
    pair = row.pair
    about = pair.row.record
    record: Record = {
        "name": str(about.get("path") or about["name"]),
        "path": about.get("path"),
        **{name: about[name] for name in KEPT if name in about},
        "how": pair.how,
        "was": pair.a.label if pair.a is not None and pair.how in ("renamed", "moved") else None,
        "verdict": row.verdict(lead),
        "note": pair.note if pair.how not in ("added", "removed") else "",
    }
    for name, change in row.changes.items():
        record |= figures_of(change)
        for side, mine in (("a", pair.a), ("b", pair.b)):
            if mine is not None and f"{name}_unknown" in mine.record:
                record[f"{name}_unknown_{side}"] = mine.record[f"{name}_unknown"]
    return record


def figures_of(change: Change) -> Record:
    """A change as flat data."""
    name = change.figure.name
    record: Record = {
        f"{name}_a": change.a,
        f"{name}_b": change.b,
        f"{name}_difference": change.difference,
        f"{name}_change": change.fraction,
    }
    if change.figure.is_time:
        interval, of_fraction = change.interval, change.fraction_interval
        record[f"{name}_low"], record[f"{name}_high"] = interval if interval is not None else (None, None)
        ends = of_fraction if of_fraction is not None else (None, None)
        record[f"{name}_change_low"], record[f"{name}_change_high"] = ends
    return record
