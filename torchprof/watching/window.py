"""What a few steps took."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from torchprof.analysis.records import Record
from torchprof.analysis.steps import evaluation_steps
from torchprof.analysis.time.step_records import step_records
from torchprof.tables.table import Table, worth_showing
from torchprof.trace.trace import Trace
from torchprof.wording import numbered

__all__ = ["Window", "table_of", "window_of"]

MEANS: Final = "time device kernels forward recompute backward optimizer data other allocated".split()
MOST: Final = ("peak", "held")


@dataclass(frozen=True, slots=True)
class Window:
    """What the steps of one window of `torchprof.watch` took.

    Attributes:
        first, last: numbers of the steps, both included.
        ended_by: the class of the exception that ended the window before its last step; empty where none did.
        evaluation_steps: the numbers of those in which a model was also called without gradients or in evaluation mode, as in a
            pass of validation, while less than half of the steps recorded so far have such a call.
        counts_evaluations: whether ``figures`` are of these, as the window has no other steps. Else they are without them.
        figures: means over the steps: ``time`` in nanoseconds and, of it, ``forward recompute backward optimizer data other``;
            ``allocated`` in bytes; where kernels were recorded ``device``, nanoseconds in which a device worked, and
            ``kernels``. And the most of them: ``peak`` and ``held`` in bytes, of what was allocated in the window (with
            ``aggregate=False`` also of what was there before). None: not known.
    """

    first: int
    last: int
    ended_by: str
    figures: dict[str, float | None]
    evaluation_steps: tuple[int, ...] = ()
    counts_evaluations: bool = False


def window_of(trace: Trace) -> Window | None:
    """The window that a trace is of; None where no step that counts came to its end."""
    evaluated = evaluation_steps(trace)
    active = [record for record in step_records(trace) if not record["warmup"] or record["step"] in evaluated]
    if not active:
        return None
    trained = [record for record in active if record["step"] not in evaluated]
    records = trained or active
    figures: dict[str, float | None] = {}
    for name in (*MEANS, *MOST):
        values = [record[name] for record in records if name in record]
        if values:
            figures[name] = None if None in values else max(values) if name in MOST else sum(values) / len(values)
    ended_by = trace.facts.get("ended_by", "")
    return Window(int(active[0]["step"]), int(active[-1]["step"]), ended_by, figures, tuple(evaluated), not trained)


def table_of(windows: Sequence[Window]) -> Table:
    """The windows as rows."""
    rows: list[Record] = [{"name": f"{window.first:,} to {window.last:,}", **window.figures} for window in windows]
    columns = [name for name in (*MEANS, *MOST) if any(name in row for row in rows)]
    rows = [dict.fromkeys(columns) | row for row in rows]
    shown = worth_showing(rows, columns, optional=[name for name in columns if name != "time"]) if rows else ()
    lines = (
        "Each row is the mean of the steps of a window; host time",
        "Peak and held: the most of them",
        *_evaluations(windows),
    )
    return Table("Steps", rows, shown, lines if rows else ("No window came to its end yet",), unknown="?")


def _evaluations(windows: Sequence[Window]) -> Iterator[str]:
    """What must be said of steps in which a model was also evaluated."""
    for counts, where in ((False, "left out of these rows"), (True, "in these rows, as their windows have no other steps")):
        of_windows = [window.evaluation_steps for window in windows if window.counts_evaluations == counts]
        if steps := [step for each in of_windows for step in each]:
            yield f"Evaluation: in {numbered(steps, 'step')} a model was also called without gradients or in eval mode; {where}"
