"""Changes in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, Literal

from torchprof.comparison.change import Change
from torchprof.comparison.columns import percent, percent_range
from torchprof.comparison.figures import FIGURES
from torchprof.comparison.noise import CORRELATED_FROM, RUN_TO_RUN
from torchprof.comparison.side import Side
from torchprof.rendering.grid import Grid, GridColumn
from torchprof.wording import counted

__all__ = ["ABOUT", "change_text", "noise_lines", "nothing_changed", "same_ops_lines", "total_grid", "verdict_lines"]

FIRST: Final = ("time", "device", "needed", "peak", "flops", "params", "max_reserved", "forward")
"""What is said of the whole before all else, as far as it is known."""
SAID: Final = 4
ABOUT: Final = {
    "self": "host time of its own (without what is inside)",
    "device_self": "device time of what it launched itself",
    "device": "device time",
    "at_peak": "bytes held at the peak",
    "flops": "FLOPs",
    "params": "parameters of its own",
    "bytes": "bytes moved",
}
"""What rows show on both sides, by the name of the figure."""
ARROW: Final = "→"


def change_text(change: Change, name: str) -> str:
    """``Step: 12.1 ms → 10.4 ms, -14.0% (-15.2 to -12.7%), faster``."""
    write = change.figure.write
    if change.verdict == "same":
        return f"{name}: {write(change.b)}, the same"
    text = f"{name}: {value_text(change, 'A')} {ARROW} {value_text(change, 'B')}"
    if change.difference is None:
        return f"{text}, difference unknown: {change.unknown_because}"
    ends = change.fraction_interval
    if change.fraction is not None:
        text += f", {percent(change.fraction)}" + (f" ({percent_range(*ends)})" if ends is not None else "")
    else:
        text += f", {change.figure.write_signed(change.difference)}"
    return f"{text}, {change.verdict}"


def value_text(change: Change, side: Literal["A", "B"]) -> str:
    """The value on a side: ``>= 345 G`` where it may be more."""
    value = change.a if side == "A" else change.b
    text = change.figure.write(value)
    return f">= {text}" if side in change.bounds and value is not None else text


def verdict_lines(changes: Sequence[Change], whole: str) -> list[str]:
    """The most important changes of the whole.

    Args:
        whole: what the time is of: ``"step"``.
    """
    by_name = {change.figure.name: change for change in changes}
    names = [name for name in FIRST if name in by_name and (name != "forward" or "time" not in by_name)]
    headers = {"time": whole.capitalize(), "device": "Device time"}
    return [change_text(by_name[name], headers.get(name, by_name[name].figure.header)) for name in names[:SAID]]


def same_ops_lines(changes: Sequence[Change]) -> Iterator[str]:
    """What must be said where the whole takes another time, and nothing else tells that anything changed."""
    if any(change.figure.name in ("time", "device") and change.verdict.endswith("same ops") for change in changes):
        yield (
            "The same ops ran in A and B: that alone does not tell a change of the code from a machine that was busier; record "
            "both again, in turns, and look whether the difference stays"
        )


def total_grid(changes: Sequence[Change], whole: str) -> Grid:
    """The changes of the whole as a table."""
    ends = [change.interval for change in changes]
    columns = [
        GridColumn("A", [value_text(change, "A") for change in changes]),
        GridColumn("B", [value_text(change, "B") for change in changes]),
        GridColumn("Difference", [change.figure.write_signed(change.difference) for change in changes]),
        GridColumn("Change", [percent(change.fraction) if change.difference else "" for change in changes]),
    ]
    if any(end is not None for end in ends):
        texts = [change.figure.write_range(*end) if end is not None else "" for change, end in zip(changes, ends, strict=True)]
        columns.append(GridColumn("95% interval", texts, meaning="where the difference is, but for one time in twenty"))
    columns.append(GridColumn("", [change.verdict for change in changes], left=True))
    names = [whole.capitalize() if change.figure.name == "time" else change.figure.header for change in changes]
    return Grid(f"Of the {whole}", names, columns, ["row"] * len(names), [""] * len(names))


def noise_lines(a: Side, b: Side, totals: Sequence[Change], lead: str, rows: int) -> Iterator[str]:
    """What is known of noise, and how."""
    if not any(change.figure.is_time for change in totals):
        return
    for letter, side in (("A", a), ("B", b)):
        if side.no_noise:
            yield f"Noise of times: not known, {letter}: {side.no_noise}"
    if a.no_noise or b.no_noise:
        return
    has_rows = any(row.samples for row in a.rows) and any(row.samples for row in b.rows)
    independent = min(len(sample.values) for side in (a, b) for sample in side.totals.samples.values()) < CORRELATED_FROM
    if independent:
        yield f"Fewer than {CORRELATED_FROM} steps: taken to be independent of each other, which on a busy machine they are not"
    yield (
        "Intervals: 95% confidence, by what differs from step to step, not from run to run (Welch's t of the means"
        + (f"; in the table for all {counted(rows, 'row')} together)" if has_rows else ")")
    )
    yield (
        f"Slower and faster: where all of the interval, or most steps, are beyond {RUN_TO_RUN:.0%}; runs of the same code "
        "differ by some percent, and by more on a busy machine"
    )
    if not has_rows and a.rows and b.rows and FIGURES[lead].is_time:
        yield f"Noise of rows by {a.by}: not known, there are no times of single steps"


def nothing_changed(rows: int, unknown: int, by: str) -> str:
    """What is said in place of a table without rows.

    Args:
        unknown: of how many rows the difference is not known.
    """
    if not rows:
        return f"By {by}: there is nothing to compare"
    of_unknown = f"the difference is unknown in {counted(unknown, 'row')}"
    if unknown == rows:
        return f"By {by}: {of_unknown}"
    return f"By {by}: nothing changed beyond noise in {counted(rows - unknown, 'row')}" + (f"; {of_unknown}" if unknown else "")
