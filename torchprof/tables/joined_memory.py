"""`torchprof.memory` of a trace and of a memory snapshot of the same run, read together, to print."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from torchprof.allocator.matching import TOLERANCE
from torchprof.analysis.memory.ops import outermost_op_names
from torchprof.analysis.records import Record
from torchprof.errors import ArgumentError
from torchprof.importers.cuda_snapshot import CudaSnapshot
from torchprof.importers.stacks import Stack
from torchprof.rendering.grid import Parts
from torchprof.rendering.units import format_bytes, format_ns
from torchprof.tables.checks import check_trace
from torchprof.tables.memory import SHOWN, Memory
from torchprof.tables.snapshot_memory import callers, line_of
from torchprof.tables.table import Table
from torchprof.tables.traced_snapshot import TracedSnapshot

__all__ = ["JoinedMemory", "join_memory"]

FAR_APART: Final = 10**9
"""Nanoseconds between the clocks of one run, which PyTorch calibrates once each."""

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class JoinedMemory(Memory):
    """The memory account of a trace, with stacks from a memory snapshot of the same run. ``str()`` is the printed text.

    It has all that `Memory` has, and the table ``line_table``: what was allocated at the peak by line of Python, op and module.

    Attributes:
        snapshot: the account of the snapshot, whose blocks have ``places`` in the trace.
    """

    snapshot: TracedSnapshot

    @cached_property
    def stacks(self) -> list[Stack | None]:
        """Of each of ``allocations``, the lines of Python that allocated it; None: the snapshot does not have it, or them."""
        numbers = self.snapshot.blocks["stack"].tolist()
        found = ((numbers[block] if block >= 0 else -1) for block in self.snapshot.matching.block.tolist())
        return [self.snapshot.stack(number) if number >= 0 else None for number in found]

    @cached_property
    def line_table(self) -> Table:
        """What was allocated on the device at the peak, by line of Python, op and module; most first.

        Blocks that only the snapshot has are in it as well: those from before the trace, and of other threads.
        """
        return self.snapshot.table_of(self._held_blocks)

    @cached_property
    def leak_table(self) -> Table:
        """The leaks, each with the line of Python that allocated most of it."""
        table = super().leak_table
        stacks: dict[tuple[str, str, str], Counter[Stack]] = {}
        rows = np.flatnonzero(self.allocations["end"] < 0)
        names = outermost_op_names(self.trace, self.allocations["op"][rows])
        for row, op, line in zip(rows.tolist(), names, self.lines_of(rows), strict=True):
            if stack := self.stacks[row]:
                stacks.setdefault((op, self.module_path(row), line), Counter())[stack] += int(self.allocations["bytes"][row])
        for record, leak in zip(table.rows, self.leaks, strict=True):
            of_leak = stacks.get((leak.op, leak.module, leak.line))
            record["stack"] = list(of_leak.most_common(1)[0][0]) if of_leak else []
        return replace(table, details=_lines)

    @cached_property
    def unmatched(self) -> dict[str, int]:
        """How many allocations of the trace are not in the snapshot, and of the snapshot not in the trace, by reason."""
        snapshot, ahead = self.snapshot, self.snapshot.matching.ahead or 0
        began = self.allocations["start"] >= 0
        missing = (snapshot.matching.block < 0) & began
        times = self.allocations["start"] + snapshot.origin + ahead
        before, after = times < snapshot.nanoseconds[0] - TOLERANCE, times > snapshot.nanoseconds[-1] + TOLERANCE
        of_history = snapshot.blocks["start"] >= 0
        when = snapshot.nanoseconds[snapshot.blocks["start"][of_history]] - snapshot.origin - ahead
        left = snapshot.allocation[of_history] < 0
        inside = (when >= 0) & (when <= int(self.trace.facts.get("duration_ns", 0)))
        return {
            "before the history": int((missing & before).sum()),
            "after the history": int((missing & after).sum()),
            "not in the history": int((missing & ~before & ~after).sum()),
            "outside of the trace": int((left & ~inside).sum()),
            "not in the trace": int((left & inside).sum()),
        }

    def to_dict(self) -> dict[str, Any]:
        """As `Memory.to_dict`, with the lines of the snapshot, and what the two have in common."""
        both = {"clock_difference": self.clock_difference, "unmatched": self.unmatched}
        return {**super().to_dict(), "lines": self.line_table.to_dict(), **both}

    def __repr__(self) -> str:
        return f"<JoinedMemory: peak {format_bytes(self.peak.bytes)} on {self.device}>"

    def parts(self) -> Parts:
        yield from super().parts()
        yield from self.line_table.head(SHOWN).parts()
        yield from self._said()

    @property
    def clock_difference(self) -> int:
        """Nanoseconds by which the clock of the snapshot is ahead of that of the trace, as found: taken off where the two are
        compared."""
        return self.snapshot.matching.ahead or 0

    def _lines_at_peak(self) -> Parts:
        yield from ()  # those of the snapshot are printed below

    def _said(self) -> Parts:
        missing = self.unmatched
        ahead = self.clock_difference
        which = "ahead of" if ahead >= 0 else "behind"
        yield f"Clocks: that of the snapshot is {format_ns(abs(ahead))} {which} that of the trace, which is taken off" + (
            f". More than {format_ns(FAR_APART)} are not of one run as a rule: check that these are"
            if abs(ahead) > FAR_APART
            else ""
        )
        began = int((self.allocations["start"] >= 0).sum())
        reasons = [f"{missing[why]:,} {why}" for why in tuple(missing)[:3] if missing[why]]
        found = began - sum(missing[why] for why in tuple(missing)[:3])
        rest = f"; the others: {', '.join(reasons)}" if reasons else ""
        yield f"Of {began:,} allocations of the trace, {found:,} are in the snapshot{rest}"
        of_history = int((self.snapshot.blocks["start"] >= 0).sum())
        reasons = [f"{missing[why]:,} {why}" for why in tuple(missing)[3:] if missing[why]]
        both = int((self.snapshot.allocation[self.snapshot.blocks["start"] >= 0] >= 0).sum())
        rest = f"; the others: {', '.join(reasons)}" if reasons else ""
        yield f"Of {of_history:,} allocations of the snapshot, {both:,} are in the trace{rest}"
        if 2 * found < began - missing["before the history"] - missing["after the history"]:
            yield "INEXACT: less than half of the allocations were found: the two may be of different runs"

    @cached_property
    def _held_blocks(self) -> npt.NDArray[np.bool_]:
        """Which blocks of the snapshot were allocated at the peak of the trace."""
        snapshot, change = self.snapshot, self._peak_change
        block = int(snapshot.matching.block[int(self._changes.rows[change])]) if change >= 0 else -1
        entry = int(snapshot.blocks["start"][block]) if block >= 0 else -1
        if entry < 0:
            moment = snapshot.origin + self.peak.time + (snapshot.matching.ahead or 0)
            entry = int(np.searchsorted(snapshot.nanoseconds, moment, side="right")) - 1
        end = snapshot.blocks["end"]
        held: npt.NDArray[np.bool_] = (snapshot.blocks["start"] <= entry) & ((end < 0) | (end > entry))
        return held


def _lines(row: Record) -> Sequence[tuple[str, str]]:
    """The line of the row, and those that called it."""
    if not row["stack"]:
        return []
    line = line_of(tuple(row["stack"]))
    return [(f"in {line}", ""), *callers({**row, "name": line})]


def join_memory(trace: Any, device: str | None, snapshot: Any) -> JoinedMemory:
    """Account for the memory of a trace and a snapshot of one run: see `torchprof.memory`."""
    check_trace(trace)
    account = Memory.of(trace, device)
    kind, _, index = account.device.partition(":")
    if kind != "cuda":
        raise ArgumentError(f"device={account.device!r}: snapshots are of CUDA's memory: name a device such as 'cuda:0'")
    recorded = CudaSnapshot.of(snapshot)
    number = int(index or 0)
    if not recorded.has_history(number):
        raise ArgumentError(
            f"{recorded.place}: it has no history of {account.device}: call torch.cuda.memory._record_memory_history() before "
            "the run"
        )
    if recorded.times(number) is None:
        raise ArgumentError(
            f"{recorded.place}: its history has no times, as of older versions of PyTorch, and cannot be read with a trace"
        )
    traced = TracedSnapshot(recorded, number, account)
    if traced.matching.ahead is None or not (traced.matching.block >= 0).any():
        raise ArgumentError(
            f"{recorded.place}: no allocation of the trace on {account.device} is in it, by address and time: they are of "
            "different runs, or were not recorded at the same time"
        )
    return JoinedMemory(account.trace, account.device, account.allocations, account.category, account.totals, snapshot=traced)
