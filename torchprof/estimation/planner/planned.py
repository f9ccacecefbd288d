"""`Plan`: which configurations fit, and why the others do not, to print."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from torchprof.analysis.records import Record
from torchprof.estimation.planner.choice import in_short
from torchprof.estimation.planner.configuration import Configuration
from torchprof.paths import AnyPath, text_written
from torchprof.rendering.grid import Grid, GridColumn, Parts
from torchprof.rendering.printed import Printed
from torchprof.rendering.units import format_bytes, format_count, format_ns
from torchprof.tables.table import data_frame
from torchprof.wording import counted

if TYPE_CHECKING:
    import pandas

__all__ = ["Plan"]

UNKNOWN: Final = "?"
NANOSECONDS: Final = 1e9


@dataclass(frozen=True)
class Plan(Printed):
    """What `torchprof.plan` found. ``str()`` is the printed text.

    Attributes:
        rows: the configurations. First those that fit, the one with the lowest bound of time per token first, and what fits
            only just behind the others; then those of which it is not known, that do not fit, that cannot be estimated, and
            that were not.
        gpu: the name of the GPU, or its memory in words.
        capacity: bytes that it has.
        names: of what was tried beside GPUs and batch.
        left_out: why combinations of values are no configurations, and how many for each reason.
        interrupted: whether Ctrl-C ended it: the rest was not estimated.
    """

    rows: tuple[Configuration, ...]
    gpu: str
    capacity: int
    names: tuple[str, ...] = ()
    left_out: tuple[tuple[str, int], ...] = ()
    interrupted: bool = False

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def fitting(self) -> tuple[Configuration, ...]:
        """The configurations that fit, the best first."""
        return tuple(row for row in self.rows if row.status == "fits")

    @property
    def best(self) -> Configuration | None:
        """The first of them: of the lowest bound of time per token. None where none fits.

        Bounds are no times: a configuration may be faster than another whose bound is lower.
        """
        return next(iter(self.fitting), None)

    @property
    def records(self) -> list[Record]:
        """One dict for each configuration, in the order of ``rows``: bytes, seconds, fractions; None is not known."""
        return [row.to_dict() for row in self.rows]

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain data."""
        return {
            "gpu": self.gpu,
            "capacity": self.capacity,
            "configurations": self.records,
            "left_out": [{"why": why, "combinations": count} for why, count in self.left_out],
            "interrupted": self.interrupted,
        }

    def to_json(self, path: AnyPath | None = None) -> str:
        """The same as JSON; also written to ``path`` if given.

        Raises:
            OSError: the file cannot be written.
        """
        return text_written(json.dumps(self.to_dict(), indent=1), path)

    def to_pandas(self) -> pandas.DataFrame:
        """The records as a ``pandas.DataFrame``. Needs pandas.

        Raises:
            ImportError: pandas is not installed.
        """
        return data_frame(self.records)

    def __repr__(self) -> str:
        return (
            f"<Plan: {len(self.fitting)} of {counted(len(self.rows), 'configuration fits', 'configurations fit')} {self.gpu}>"
        )

    def parts(self) -> Parts:
        yield self._said()
        if same := self._same():
            yield f"All: {same}"
        if self.fitting:
            yield _grid(self.fitting, (*self._chosen, *self._figures), tuple(self._below()))
        others = [row for row in self.rows if row.status not in ("fits", "not estimated")]
        if others:
            yield _grid(others, (*self._chosen, NEEDED, LACKING, WHY))
        for why, count in self.left_out:
            yield f"Left out: {counted(count, 'combination')}: {why}"

    def _said(self) -> str:
        """How many fit, in a sentence."""
        counts = {status: sum(row.status == status for row in self.rows) for status in SAID}
        told = [f"{count} {said[count != 1]}" for status, said in SAID.items() if (count := counts[status])]
        ended = "; it was interrupted" if self.interrupted else ""
        return f"{counted(len(self.rows), 'configuration')} on {self.gpu}: {', '.join(told)}{ended}"

    def _same(self) -> str:
        """What all configurations have in common."""
        first = self.rows[0].choice
        told = [f"{name} {in_short(first[name])}" for name in self.names if name not in self._differing]
        if first.sequence is not None and "sequence" not in self._differing:
            told.append(f"sequence {first.sequence:,}")
        if first.tokens is not None and len({row.choice.tokens for row in self.rows}) == 1:
            told.append(f"{first.tokens:,} tokens in a step")
        return ", ".join(told)

    def _below(self) -> Iterator[str]:
        yield (
            f"Needed: of each GPU, which has {format_bytes(self.capacity)}; estimated. Sent: by a rank in a step, of the "
            "wholes that are gathered or reduced; counted"
        )
        if any(row.only_just for row in self.fitting):
            yield (
                "Only just: the allocator has to free what it cached to make room, which takes time; sorted behind the others"
            )
        if any(row.choice.accumulation > 1 for row in self.fitting):
            yield "Batch: samples that a rank has at once x passes whose gradients are added up"
        if any(row.flops_recomputed for row in self.fitting):
            yield "Recomputed: FLOPs that checkpointing computes again, of those of the model"
        for each in dict.fromkeys(each for row in self.fitting if row.found is not None for each in row.found.assumed):
            yield f"Assumed: {each}"
        if all(row.bound is None for row in self.fitting):
            yield "Bound: unknown, as no rates of this GPU are published; sorted by what is needed"
            return
        yield (
            "Bound: no step is faster, most are slower: FLOPs at the published peak, bytes at the speed of links, one hidden "
            "behind the other. Sorted by it, per token"
        )
        missing = dict.fromkeys(name for row in self.fitting if row.limit is not None for name in row.limit.unknown)
        if missing:
            yield f"Not in the bound: {'; '.join(missing)}"

    @cached_property
    def _differing(self) -> frozenset[str]:
        """The names of what is not the same in all configurations."""
        choices = [row.choice for row in self.rows]
        return frozenset(name for name in (*self.names, "sequence") if any(each[name] != choices[0][name] for each in choices))

    @cached_property
    def _chosen(self) -> tuple[_Column, ...]:
        """Columns of what differs between the configurations."""
        names = [name for name in (*self.names, "sequence") if name in self._differing]
        return (*map(_chosen, names), _Column("Batch", _batch))

    @property
    def _figures(self) -> tuple[_Column, ...]:
        """Columns of what was found; rates are of samples where nobody said how many tokens one has."""
        return (
            FIGURES
            if self.rows[0].choice.tokens is not None
            else tuple(SAMPLES if each is TOKENS else each for each in FIGURES)
        )


class _Column:
    """A column of the printed tables: its header, and what stands in a row."""

    def __init__(self, header: str, write: Callable[[Configuration], str], left: bool = False) -> None:
        self.header, self.write, self.left = header, write, left


def _chosen(name: str) -> _Column:
    return _Column(name, lambda row: in_short(row.choice[name]))


def _grid(rows: Sequence[Configuration], columns: Sequence[_Column], footer: tuple[str, ...] = ()) -> Grid:
    cells = {column: [column.write(row) for row in rows] for column in columns}
    shown = [column for column in columns if column not in OPTIONAL or set(cells[column]) - {"-", UNKNOWN}]
    return Grid(
        "GPUs",
        [f"{row.choice.gpus:,}" for row in rows],
        [GridColumn(column.header, cells[column], column.left) for column in shown],
        ["row"] * len(rows),
        [""] * len(rows),
        footer,
    )


def _batch(row: Configuration) -> str:
    choice = row.choice
    return f"{choice.batch} x {choice.accumulation}" if choice.accumulation > 1 else str(choice.batch)


def _needed(row: Configuration) -> str:
    if row.needed is None:
        return UNKNOWN
    return f"{'>= ' if row.found is not None and row.found.is_least else ''}{format_bytes(row.needed)}"


def _headroom(row: Configuration) -> str:
    return UNKNOWN if row.headroom is None else "only just" if row.only_just else format_bytes(row.headroom)


def _lacking(row: Configuration) -> str:
    return "-" if row.headroom is None or row.headroom >= 0 else format_bytes(-row.headroom)


def _sent(row: Configuration) -> str:
    return UNKNOWN if row.sent is None else format_bytes(row.sent) if row.sent else "-"


def _recomputed(row: Configuration) -> str:
    return UNKNOWN if row.recomputed is None else f"{row.recomputed:.0%}" if row.recomputed else "-"


def _bound(row: Configuration) -> str:
    return UNKNOWN if row.bound is None else format_ns(round(row.bound * NANOSECONDS))


def _tokens(row: Configuration) -> str:
    return UNKNOWN if row.tokens_per_second is None else format_count(round(row.tokens_per_second))


def _mfu(row: Configuration) -> str:
    return UNKNOWN if row.mfu is None else f"{row.mfu:.1%}"


NEEDED: Final = _Column("Needed", _needed)
LACKING: Final = _Column("Lacking", _lacking)
WHY: Final = _Column("Why", lambda row: row.why, left=True)
BOUND, TOKENS, MFU = _Column("Bound", _bound), _Column("Tokens/s, at most", _tokens), _Column("MFU, at most", _mfu)
SAMPLES: Final = _Column("Samples/s, at most", _tokens)
RECOMPUTED: Final = _Column("Recomputed", _recomputed)
FIGURES: Final = (NEEDED, _Column("Headroom", _headroom), _Column("Sent", _sent), RECOMPUTED, BOUND, TOKENS, MFU)
OPTIONAL: Final = (LACKING, RECOMPUTED, BOUND, TOKENS, SAMPLES, MFU)
"""Columns that are printed only where any row has something in them."""
SAID: Final = {
    "fits": ("fits", "fit"),
    "unknown": ("may fit", "may fit"),
    "does not fit": ("does not", "do not"),
    "failed": ("cannot be estimated", "cannot be estimated"),
    "not estimated": ("was not estimated", "were not estimated"),
}
"""How many there are of each kind, in words, of one and of several; the order of the rows."""
