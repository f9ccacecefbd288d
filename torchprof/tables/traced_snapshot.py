"""A memory snapshot with what a trace of the same run knows of its blocks: op, module, phase and step."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from torchprof.allocator.account import BEFORE
from torchprof.allocator.block_categories import SNAPSHOT_CATEGORIES
from torchprof.allocator.matching import Matching, match
from torchprof.allocator.stack_roles import Role
from torchprof.analysis.memory.categories import CATEGORIES, phase_at
from torchprof.analysis.memory.modules import NO_MODULE, module_label
from torchprof.analysis.memory.ops import outermost_op_names
from torchprof.analysis.memory.steps import not_recorded
from torchprof.analysis.records import Record
from torchprof.importers.stacks import Stack
from torchprof.rendering.units import format_bytes
from torchprof.tables.memory import Memory
from torchprof.tables.snapshot_memory import SnapshotMemory, callers, line_of
from torchprof.tables.table import About, Table
from torchprof.trace.schema import Phase

__all__ = ["Place", "TracedSnapshot"]

Ints = npt.NDArray[np.int64]

ROLES: Final = {
    Phase.FORWARD: Role.FORWARD,
    Phase.RECOMPUTATION: Role.RECOMPUTATION,
    Phase.BACKWARD: Role.BACKWARD,
    Phase.OPTIMIZER: Role.OPTIMIZER,
    Phase.DATA: Role.DATA,
    Phase.OTHER: Role.OTHER,
}


class Place(NamedTuple):
    """Where in a program a block was allocated, as the trace recorded it.

    Attributes:
        op: the outermost op; empty for none.
        module: path of the module: empty for the root, ``"(no module)"`` for none.
        phase: ``"forward"``, ``"backward"``, ...
        step: number of the step; None outside of all steps.
    """

    op: str
    module: str
    phase: str
    step: int | None


@dataclass(frozen=True)
class TracedSnapshot(SnapshotMemory):
    """What a memory snapshot says of one device, and a trace of the same run. ``str()`` is the printed text.

    Attributes:
        account: of the trace.
    """

    account: Memory

    @cached_property
    def matching(self) -> Matching:
        """Which block each of the allocations of the account is, and how far the clocks are apart."""
        return match(self.account.allocations, self.origin, self.blocks, self.nanoseconds)

    @property
    def origin(self) -> int:
        """When the trace began, in nanoseconds since 1970."""
        return int(self.account.trace.facts.get("origin_unix_ns", 0))

    @cached_property
    def nanoseconds(self) -> Ints:
        """When each entry of the history was made, since 1970."""
        return np.array(self.snapshot.times(self.number) or [], dtype=np.int64) * 1000

    @cached_property
    def allocation(self) -> Ints:
        """Of each of ``blocks``, the row of ``account.allocations``; -1: the trace does not have it."""
        return self.matching.allocation_of(len(self.blocks))

    @cached_property
    def places(self) -> list[Place | None]:
        """Of each of ``blocks``, where the program allocated it; None: the trace does not have it."""
        trace, allocations = self.account.trace, self.account.allocations
        ops = outermost_op_names(trace, allocations["op"])
        phases = phase_at(trace, allocations["op"], allocations["module_call"]).tolist()
        steps = trace.steps
        around = np.searchsorted(steps["start"], allocations["start"], side="right") - 1
        inside = (around >= 0) & (allocations["start"] < np.append(steps["end"], -1)[around])
        numbers = np.append(steps["number"], -1)[np.where(inside, around, -1)].tolist()
        return [
            Place(
                ops[row],
                self.account.module_path(row),
                Phase(phases[row]).name.lower(),
                int(numbers[row]) if inside[row] else None,
            )
            if row >= 0
            else None
            for row in self.allocation.tolist()
        ]

    def category_of(self, block: int) -> str:
        """What a block is used for: by the trace where it knows what used its blocks, else estimated."""
        row = int(self.allocation[block])
        if row >= 0 and not not_recorded(self.account.trace):
            return CATEGORIES[int(self.account.category[row])]
        return SNAPSHOT_CATEGORIES[int(self.category[block])]

    @cached_property
    def peak_table(self) -> Table:
        """What was allocated when the most was, by line, category, op and module; the rows add up to the peak."""
        return self.table_of(self.held_at_peak)

    def table_of(self, held: npt.NDArray[np.bool_]) -> Table:
        """Which of ``blocks`` these are, by line, category, op and module; the most bytes first."""
        sums: dict[tuple[Stack, str, str, str], list[int]] = {}
        rows = np.flatnonzero(held)
        columns = (self.blocks[name][rows].tolist() for name in ("stack", "bytes", "start"))
        for block, stack, size, start in zip(rows.tolist(), *columns, strict=True):
            place = self.places[block] or Place("", NO_MODULE, "", None)
            lines = BEFORE if stack < 0 and start < 0 else self.stack(stack)
            found = sums.setdefault((lines, self.category_of(block), place.op, place.module), [0, 0])
            found[0] += size
            found[1] += 1
        whole = sum(size for size, _ in sums.values())
        records: list[Record] = [
            {
                "name": line_of(lines),
                "at_peak": size,
                "share": size / whole if whole else 0.0,
                "count": count,
                "category": category,
                "op": op,
                "module": module_label(self.account.trace, module),
                "stack": list(lines),
            }
            for (lines, category, op, module), (size, count) in sums.items()
        ]
        shown = ["at_peak", "share", "count", "category", "op", "module"]
        if all(record["module"] == NO_MODULE for record in records):
            shown.remove("module")
        shares = About(("share",), f"Share: of what the snapshot has allocated then, {format_bytes(whole)}")
        headers = {"count": "Blocks"}
        table = Table("Allocated at the peak by", records, tuple(shown), (shares,), headers=headers, details=callers)
        return table.sort("at_peak")

    @cached_property
    def _roles(self) -> tuple[list[Role], list[Role]]:
        """Where no stack says what was done, the phase of the trace does; also where a stack without frames says that the
        autograd engine freed a block."""
        allocated, freed = super()._roles
        guessed = set(self._freed_without_frames)
        trace, allocations = self.account.trace, self.account.allocations
        nowhere = np.full(len(allocations), -1)
        for roles, ops, calls in (
            (allocated, allocations["op"], allocations["module_call"]),
            (freed, allocations["free_op"], nowhere),
        ):
            phases = phase_at(trace, ops, calls).tolist()
            known = ((ops >= 0) | (calls >= 0)).tolist()
            for block, row in enumerate(self.allocation.tolist()):
                unclear = roles[block] == Role.UNKNOWN or (roles is freed and block in guessed)
                if row >= 0 and known[row] and unclear:
                    roles[block] = ROLES[Phase(phases[row])]
        return allocated, freed
