"""What is compared, whatever it is, as a side."""

from __future__ import annotations

import os
from typing import Any

from torchprof.comparison.side import BYS, By, Side
from torchprof.comparison.sides.accounts import estimate_side, memory_side, snapshot_side
from torchprof.comparison.sides.summary import summary_side
from torchprof.comparison.sides.trace import default_by, trace_side
from torchprof.errors import ArgumentError, ModuleTypeError
from torchprof.importers.folders import refuse_folder
from torchprof.importers.load import load_trace
from torchprof.importers.other_files import BEGINNING
from torchprof.importers.snapshot_file import is_snapshot
from torchprof.paths import opened
from torchprof.tables.memory import Memory
from torchprof.tables.snapshot_memory import SnapshotMemory, snapshot_memory
from torchprof.tables.summary import Summary
from torchprof.trace.ranks import Ranks
from torchprof.trace.trace import Trace
from torchprof.wording import shown

__all__ = ["comparable", "kind_of", "side_of", "usual_by"]

ROWS_OF: dict[str, tuple[By, ...]] = {
    "trace": BYS,
    "estimate": ("category", "module", "op"),
    "summary": ("module",),
    "memory": ("category", "module", "line"),
    "snapshot": ("line", "category"),
}
"""What rows can be of each kind of thing, the usual one first; of traces it depends on what they have."""


def comparable(value: Any, argument: str) -> Any:
    """What a path or an object stands for: a trace, an estimate, a summary or an account of memory.

    Raises:
        ModuleTypeError: it is none of these.
    """
    if isinstance(value, str | bytes | os.PathLike):
        refuse_folder(value)
        with opened(value) as stream:
            begins = stream.read(BEGINNING)
        return snapshot_memory(value, None) if is_snapshot(begins) else load_trace(value)
    if kind_of(value) is None:
        kinds = "give a torchprof.Trace, Estimate, Summary, Memory or SnapshotMemory, or the path of a file"
        if isinstance(value, Ranks):
            kinds = f"it is of several ranks: give the trace of one, such as {argument}[0]"
        hint = f"give its trace, such as {argument}.trace" if hasattr(type(value), "trace") else kinds
        raise ModuleTypeError(f"{argument}={shown(value)} cannot be compared: {hint}")
    return value


def kind_of(value: Any) -> str | None:
    """Which of the kinds a thing is; None for none of them."""
    kinds = {Trace: "trace", Summary: "summary", Memory: "memory", SnapshotMemory: "snapshot"}
    for type_, kind in kinds.items():
        if isinstance(value, type_):
            return kind
    is_estimate = type(value).__module__ == "torchprof.estimation.estimated"  # which needs PyTorch, as this does not
    return "estimate" if is_estimate else None


def usual_by(a: Any, b: Any) -> By:
    """What rows are where it is not said."""
    if kind_of(a) == "trace":
        found = {default_by(a), default_by(b)}
        return "module" if "module" in found else "op"
    return ROWS_OF[str(kind_of(a))][0]


def side_of(value: Any, by: By) -> Side:
    """A thing as a side.

    Raises:
        ArgumentError: it has no such rows.
    """
    kind = str(kind_of(value))
    if by not in ROWS_OF[kind]:
        raise ArgumentError(
            f"by={by!r}: {'an' if kind == 'estimate' else 'a'} {kind} is compared by {' or '.join(map(repr, ROWS_OF[kind]))}"
        )
    if kind == "trace":
        return trace_side(value, by)
    if kind == "estimate":
        return estimate_side(value, by)
    if kind == "summary":
        return summary_side(value)
    return memory_side(value, by) if kind == "memory" else snapshot_side(value, by)
