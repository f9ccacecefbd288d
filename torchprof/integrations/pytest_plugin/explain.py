"""The table that explains a figure: what held the peak, which modules have the FLOPs, which ops ran."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from torchprof.analysis.gpu.launchers import op_label
from torchprof.analysis.groups import Groups
from torchprof.analysis.lines.where import lines_of_launches
from torchprof.analysis.lookups import names_of_ops
from torchprof.analysis.records import Record
from torchprof.analysis.time.module_records import module_records
from torchprof.integrations.pytest_plugin.figures import Figures, is_inside
from torchprof.integrations.pytest_plugin.graph_breaks import GraphBreaks
from torchprof.integrations.pytest_plugin.timing import Timing
from torchprof.rendering.units import format_ns
from torchprof.tables.by_kernel import by_kernel
from torchprof.tables.by_module import by_module
from torchprof.tables.by_op import by_op
from torchprof.tables.table import Table, worth_showing

__all__ = ["WIDTH", "explanation", "explanation_of_breaks", "explanation_of_times"]

ROWS: Final = 5
WIDTH: Final = 120
"""Characters of a line: reports are read in logs too."""


def explanation(figures: Figures, name: str, module: str | None, device: str) -> str:
    """The table that explains a figure of a trace, as text.

    Args:
        name: of the figure.
        module: the path of the module that it is of; None: of the whole test.
        device: of bytes.
    """
    path = figures.path(module, called=False) if module is not None else None
    table = TABLES[name](figures, path, device)
    if not len(table):
        return ""
    short: str = table.head(ROWS).to_text(WIDTH)
    return short


def _peak(figures: Figures, path: str | None, device: str) -> Table:
    account = figures.account(device)
    if path is None:
        return account.peak_lines if len(account.peak_lines) else account.modules
    return account.lines_of_rows(figures.held_at_peak(device, path), "Held then, made at", "what it held")


def _saved(figures: Figures, path: str | None, device: str) -> Table:
    rows = figures.saved_rows(device, path)
    table = figures.account(device).lines_of_rows(rows, "Kept for backward, made at", "what was kept")
    return _named(table, at_peak="Saved")


def _flops(figures: Figures, path: str | None, device: str) -> Table:
    trace = figures.trace
    if not len(trace.modules):
        return _only(by_op(trace).sort("flops"), "flops", "calls")
    table = by_module(trace)
    rows = [row for row in table.rows if path is None or (row["path"] and is_inside(row["path"], path))]
    listed = Table(table.title, rows, ("flops", "calls"), is_tree=True).sort("flops")
    return _only(listed, "flops", "calls")


def _ops(figures: Figures, path: str | None, device: str) -> Table:
    table = by_op(figures.trace, module=path).sort("name", descending=False).sort("calls")
    return Table(table.title, table.rows, worth_showing(table.rows[:ROWS], ("calls", "flops"), optional=("flops",)))


def _kernels(figures: Figures, path: str | None, device: str) -> Table:
    table = by_kernel(figures.trace, module=path).sort("name", descending=False).sort("count")
    return _only(table, "count", "launched_by")


def _syncs(figures: Figures, path: str | None, device: str) -> Table:
    trace = figures.trace
    calls = trace.runtime_calls[figures.synchronizing_calls(path)]
    op = names_of_ops(trace, calls["op"].astype(np.int64))
    lines = lines_of_launches(trace, calls)
    line = np.array([list(dict.fromkeys(lines)).index(each) for each in lines], dtype=np.int64)
    groups = Groups.by([op, calls["name"], line])
    rows: list[Record] = [
        {
            "name": op_label(trace, int(op[first])),
            "count": int(groups.count[group]),
            "call": trace.strings[int(calls["name"][first])],
            "lines": [lines[first]] if lines[first] else [],
        }
        for group, first in enumerate(groups.first.tolist())
    ]
    shown = worth_showing(rows, ("count", "call", "lines"), optional=("lines",))
    return Table("Waited in", rows, shown).sort("count")


def _params(figures: Figures, path: str | None, device: str) -> Table:
    rows = [
        row
        for row in module_records(figures.trace)
        if row["params"] and (path is None or (is_inside(row["path"], path) and row["type"]))
    ]
    return Table("Module", rows, ("params",), is_tree=True).sort("params")


def _only(table: Table, figure: str, *others: str) -> Table:
    """The rows that have any of this figure, with these columns, and without what stands below the table."""
    rows = [row for row in table.rows if row.get(figure) or row.get(f"{figure}_unknown")]
    return Table(table.title, rows, (figure, *others), is_tree=table.is_tree)


def _named(table: Table, **headers: str) -> Table:
    return Table(table.title, table.rows, table.columns, table.footer, headers={**table.headers, **headers})


TABLES: Final[dict[str, Any]] = {
    **{"peak": _peak, "saved": _saved, "flops": _flops, "ops": _ops, "kernels": _kernels, "syncs": _syncs, "params": _params}
}


def explanation_of_breaks(breaks: GraphBreaks) -> str:
    """Why Dynamo broke graphs, and after which lines the next ones begin."""
    lines = [f"{count} x {reason}" for reason, count in breaks.reasons.most_common(ROWS)]
    if breaks.places:
        lines.append(f"Goes on in: {'; '.join(breaks.places[:ROWS])}")
    return "\n".join(lines)


def explanation_of_times(timing: Timing) -> str:
    """The times of both blocks."""
    lines = []
    for kind, times in timing.times.items():
        ordered = sorted(times)
        middle = format_ns(ordered[len(ordered) // 2])
        lines.append(f"{kind:<9}  median {middle}, {format_ns(ordered[0])} to {format_ns(ordered[-1])}, {len(times)} times")
    return "\n".join(lines)
