"""Tables of a trace: by module, by op, by step, by kernel. Rows as data, and as text."""

from __future__ import annotations

import csv
import io
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchprof.analysis.gpu.backend import gpu_backend, has_kernels, why_no_kernels
from torchprof.analysis.gpu.kernel_records import kernel_records
from torchprof.analysis.gpu.kernels import unseen_launches
from torchprof.analysis.memory.account import MemoryAccount
from torchprof.analysis.memory.devices import devices_by_memory
from torchprof.analysis.model.module_tree import OUTSIDE
from torchprof.analysis.records import Record
from torchprof.analysis.time.module_records import module_records
from torchprof.analysis.time.op_records import op_records
from torchprof.analysis.time.step_records import step_records
from torchprof.errors import ArgumentError
from torchprof.rendering.printed import Printed, data_frame
from torchprof.rendering.text import Line, branches, elide, incomplete, lay_out
from torchprof.tables.columns import COLUMNS
from torchprof.trace.schema import Phase
from torchprof.trace.trace import Trace

if TYPE_CHECKING:
    import pandas

    from torchprof.trace.ceilings import Ceilings

__all__ = ["Table", "by_kernel", "by_module", "by_op", "by_step", "footer"]

PHASES = {phase.name.lower(): phase for phase in Phase}


@dataclass(frozen=True)
class Table(Printed):
    """Rows of figures. ``str()`` is the printed text; every method that changes something returns a new table.

    Attributes:
        title: header of the first column.
        rows: one dict per row, with every figure by name, printed or not: nanoseconds, bytes, elements, ratios.
        columns: names of the columns that are printed.
        footer: lines below.
        is_tree: whether rows have a ``depth`` and are shown as a tree.
    """

    title: str
    rows: list[Record]
    columns: tuple[str, ...]
    footer: tuple[str, ...] = ()
    is_tree: bool = False

    def __len__(self) -> int:
        return len(self.rows)

    def lines(self) -> Iterator[Line]:
        depths = [row["depth"] for row in self.rows] if self.is_tree else [0] * len(self.rows)
        names = []
        for row, prefix in zip(self.rows, branches(depths)[0], strict=True):
            name = str(row["name"])
            typed = self.is_tree and row["type"] and name not in (row["type"], f"<{row['type']}>")
            names.append(elide(f"{prefix}{name} ({row['type']})" if typed else f"{prefix}{name}"))
        chosen = [COLUMNS[name] for name in self.columns]
        cells = [[column.cell(row.get(name)) for name, column in zip(self.columns, chosen, strict=True)] for row in self.rows]
        kinds = ["root" if self.is_tree and depth == 0 else "module" for depth in depths]
        left = frozenset(index for index, column in enumerate(chosen) if column.left)
        headers = [self.title, *(column.header for column in chosen)]
        return lay_out(headers, names, cells, kinds, [""] * len(names), self.footer, left)

    def select(self, *columns: str) -> Table:
        """Print these columns.

        Raises:
            ArgumentError: a name is unknown.
        """
        return replace(self, columns=tuple(self._known(name) for name in columns))

    def with_columns(self, *columns: str) -> Table:
        """Print these columns as well."""
        return self.select(*self.columns, *(name for name in columns if name not in self.columns))

    def without_columns(self, *columns: str) -> Table:
        """Do not print these columns."""
        unwanted = {self._known(name) for name in columns}
        return self.select(*(name for name in self.columns if name not in unwanted))

    def sort(self, by: str, *, descending: bool = True) -> Table:
        """Order the rows by one of their figures, those without it last, or by name. A tree becomes a list of paths.

        Raises:
            ArgumentError: the name is unknown.
        """
        if by != "name":
            self._known(by)
        known = [row for row in self.rows if row.get(by) is not None]
        unknown = [row for row in self.rows if row.get(by) is None]
        rows = sorted(known, key=lambda row: row[by], reverse=descending) + unknown
        if self.is_tree:
            rows = [{**row, "name": row["path"] or row["name"], "depth": 0} for row in rows]
        return replace(self, rows=rows)

    def head(self, count: int) -> Table:
        """The first rows; a last line says how many were left out.

        Raises:
            ArgumentError: the count is no int, or negative.
        """
        if not isinstance(count, int) or isinstance(count, bool) or count < 0:
            raise ArgumentError(f"head(count) takes an int of at least 0, not {count!r}")
        if count >= len(self.rows):
            return self
        return replace(self, rows=self.rows[:count], footer=(f"{len(self.rows) - count:,} more rows", *self.footer))

    def to_dict(self) -> list[Record]:
        """The rows, as plain data."""
        return [dict(row) for row in self.rows]

    def to_json(self, path: str | os.PathLike[str] | None = None) -> str:
        """The rows as JSON; also written to ``path`` if given."""
        return _written(json.dumps(self.rows, indent=1), path)

    def to_csv(self, path: str | os.PathLike[str] | None = None) -> str:
        """The rows as CSV, one column per figure; also written to ``path`` if given."""
        text = io.StringIO()
        names = list(dict.fromkeys(name for row in self.rows for name in row))
        writer = csv.DictWriter(text, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        return _written(text.getvalue(), path)

    def to_pandas(self) -> pandas.DataFrame:
        """The rows as a ``pandas.DataFrame``. Needs pandas.

        Raises:
            ImportError: pandas is not installed.
        """
        return data_frame(self.rows)

    def _known(self, name: str) -> str:
        known = [column for column in COLUMNS if not self.rows or any(column in row for row in self.rows)]
        if name not in known:
            raise ArgumentError(f"column {name!r} is unknown: this table has {', '.join(known)}")
        return name


def _written(text: str, path: str | os.PathLike[str] | None) -> str:
    if path is not None:
        Path(path).write_text(text, encoding="utf-8")
    return text


def by_module(trace: Trace, *, depth: int | None = None) -> Table:
    """What every module cost in forward, recomputation, backward and optimizer, per step, as a tree.

    Self times of everything below a module add up to its total. What belongs to no module has a row of its own. Where a device
    worked, its time stands beside the host's; ``device_forward``, ``device_backward``, ... are columns to choose.

    Args:
        trace: of `torchprof.profile`, recorded with ``ops`` and ``modules``; with the model it knows paths.
        depth: go no deeper; figures contain what is below.

    Example:
        >>> print(torchprof.by_module(prof.trace).sort("time").head(10))
    """
    _check_depth(depth)
    records = module_records(trace)
    columns = ["calls", "time", "share", "forward", "recompute", "backward", "optimizer", "flops", "spread"]
    if has_kernels(trace):
        columns[3:3] = ["device", "device_share"]
    if not trace.facts.get("aggregate") and trace.facts.get("memory") and trace.facts.get("shapes"):
        _add_saved(trace, records)
        columns.insert(-1, "saved")
    optional = ("recompute", "optimizer", "flops", "spread", "saved")
    shown = [name for name in columns if name not in optional or any(record.get(name) for record in records)]
    if depth is not None:
        records = [record for record in records if record["depth"] <= depth]
    return Table("Module", records, tuple(shown), footer(trace), is_tree=True)


def _add_saved(trace: Trace, records: list[Record]) -> None:
    """Bytes of saved activations, with everything below."""
    devices = devices_by_memory(trace)
    saved: Counter[str] = Counter()
    for device in devices:
        if device.partition(":")[0] == devices[0].partition(":")[0]:  # a model may be on several of a kind
            saved.update(MemoryAccount.of(trace, device).saved_by_module)
    trail: list[Record] = []
    for record in records:
        record["saved"] = 0
        del trail[record["depth"] :]
        trail.append(record)
        outside = record["name"] == OUTSIDE
        own = saved[record["path"]] if record["path"] or outside else 0
        for above in trail:
            above["saved"] += own


def by_op(
    trace: Trace,
    *,
    shapes: bool = False,
    phase: str | None = None,
    module: str | None = None,
    ceilings: Ceilings | None = None,
) -> Table:
    """What every op cost per step, most self time first: time, FLOPs, bytes and the rates it reached.

    Where a device worked, it is device time that comes first, and that rates and the roofline are against.

    Args:
        trace: of `torchprof.profile`.
        shapes: tell ops with different inputs apart.
        phase: only ``"forward"``, ``"recomputation"``, ``"backward"``, ``"optimizer"`` or ``"other"``.
        module: only what worked for the module with this path, or for one below it; ``""`` is any module.
        ceilings: of `torchprof.ceilings`: adds how near each op comes to what the machine can do.

    Raises:
        ArgumentError: the phase or the module is unknown, or the ceilings are a CPU's where a device did the work.
    """
    records = op_records(trace, shapes=shapes, phase=_phase(phase), module=module)
    if module and not records and not op_records(trace, module=module):
        raise ArgumentError(f"module={module!r} has no ops: give the path of a module that was called; see by_module")
    columns = ["calls", "self", "share", "time", "mean", "flops", "bytes", "intensity", "flop_rate", "byte_rate", "allocated"]
    on_device = has_kernels(trace)
    if on_device:
        columns = ["calls", "self", "share", "device_self", "device_share", "kernels", *columns[5:-1]]
    if shapes:
        columns = ["shapes", "dtypes", *columns]
    if ceilings is not None:
        if on_device:
            check_ceilings(ceilings)
        for record in records:
            record["roofline"] = ceilings.reached(record["flop_rate"], record["byte_rate"], record["intensity"])
        columns.append("roofline")
    below = ("Rates are against device time; ops that asked a device for nothing have none",) if on_device else ()
    table = Table("Op", records, tuple(columns), (*footer(trace), *below))
    if not records:
        return table
    return table.sort("self").sort("device_self") if on_device else table.sort("self")


def by_kernel(trace: Trace, *, phase: str | None = None, module: str | None = None) -> Table:
    """What every kernel, copy and fill took per step, most device time first, and which ops asked for it.

    C++ names are shown in short; the whole one is ``full_name`` in the rows.

    Args:
        trace: of `torchprof.profile`, recorded where a device was watched.
        phase: only ``"forward"``, ``"recomputation"``, ``"backward"``, ``"optimizer"`` or ``"other"``.
        module: only what worked for the module with this path, or for one below it; ``""`` is any module.

    Raises:
        ArgumentError: the phase or the module is unknown, or no device was watched.

    Example:
        >>> print(torchprof.by_kernel(prof.trace, phase="backward").head(20))
    """
    records = kernel_records(trace, phase=_phase(phase), module=module)
    if gpu_backend(trace) == "off":
        raise ArgumentError(why_no_kernels(trace))
    if module and not records and not kernel_records(trace, module=module):
        raise ArgumentError(f"module={module!r} has no kernels: give the path of a module that has device time in by_module")
    columns = ["count", "device", "device_share", "mean", "min", "max", "bytes", "byte_rate", "launched_by"]
    shown = [name for name in columns if name not in ("bytes", "byte_rate") or any(record[name] for record in records)]
    lines = footer(trace, "device time")
    if unseen := unseen_launches(trace):
        lines = (*lines, f"{unseen:,} launches were not seen: what they ran belongs to no op and no module")
    return Table("Kernel", records, tuple(shown), lines).sort("device")


def by_step(trace: Trace) -> Table:
    """What every step took, by phase, and its memory. Warm-up steps are shown, and marked.

    Raises:
        ArgumentError: no step was marked.
    """
    records = step_records(trace)
    if not records:
        raise ArgumentError("the trace has no steps: call prof.step() at the end of every pass of the loop")
    columns = "warmup time device kernels forward recompute backward optimizer other flops allocated peak held".split()
    shown = [name for name in columns if name == "time" or any(record.get(name) for record in records)]
    return Table("Step", [{"name": record["step"], **record} for record in records], tuple(shown), footer(trace))


def _check_depth(depth: Any) -> None:
    if depth is not None and (not isinstance(depth, int) or isinstance(depth, bool) or depth < 0):
        raise ArgumentError(f"depth must be an int of at least 0, not {depth!r}")


def _phase(name: str | None) -> Phase | None:
    if name is not None and name not in PHASES:
        raise ArgumentError(f"phase={name!r} is unknown: use one of {', '.join(map(repr, PHASES))}")
    return PHASES[name] if name else None


def check_ceilings(ceilings: Ceilings) -> None:
    """Raise ArgumentError if these are a CPU's: what a device did is not measured against them."""
    if ceilings.threads:
        raise ArgumentError(
            f"ceilings={ceilings!r} are those of a CPU, and the work was done by a device: use torchprof.ceilings('cuda')"
        )


def footer(trace: Trace, times: str = "host time") -> tuple[str, ...]:
    """What is said below a table: over what figures are means, what kind of time it shows, and what is missing."""
    active = int((trace.steps["warmup"] == 0).sum())
    what = f"Mean of {active:,} steps" if active > 1 else "One step" if active else "The whole recording"
    how = gpu_backend(trace)
    if has_kernels(trace) and times == "host time":
        times = "host time, but for Device and Dev columns: time of kernels"
    lines: Sequence[str] = [f"{what}; {times}"]
    if how != "off" and not has_kernels(trace):
        lines = [*lines, "Devices were watched, and did nothing"]
    if how == "events" and trace.facts.get("gpu_note"):
        lines = [*lines, f"Devices were watched by events: {trace.facts['gpu_note']}"]
    return (*lines, *incomplete(trace.losses))
