"""What holds more and more in a recorded history: stacks, by the rule of `torchprof.analysis.memory.leaks`."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from torchprof.allocator.block_categories import SNAPSHOT_CATEGORIES, Ints
from torchprof.allocator.lifetimes import Blocks
from torchprof.allocator.snapshot_steps import SnapshotSteps
from torchprof.analysis.memory.leaks import FEWEST_STEPS, GrownPlace, grown_places
from torchprof.importers.stacks import Stack
from torchprof.wording import counted

__all__ = ["StackLeak", "grown_stacks", "stack_leaks", "why_leaks_unknown"]


class StackLeak(NamedTuple):
    """A stack whose blocks held more and more at the ends of steps.

    Attributes:
        stack: lines of Python, the innermost first.
        category: what most of the bytes are, estimated.
        blocks, bytes: what it held at the end of the last step.
        steps: the number of steps at whose end it held more than at the end of the step before.
        growth: bytes per step, from the end of the first step at whose end it held any to the end of the last.
    """

    stack: Stack
    category: str
    blocks: int
    bytes: int
    steps: int
    growth: float


def why_leaks_unknown(blocks: Blocks, steps: SnapshotSteps | None) -> str | None:
    """Why it cannot be told what leaks; None where it can."""
    if steps is None:
        return "no history was recorded"
    if not (blocks["start"] >= 0).any():
        return "nothing was allocated in the history"
    if not (blocks["stack"] >= 0).any():
        return "no stacks were recorded"
    if (count := len(steps.ends)) < FEWEST_STEPS:
        return f"too few steps to tell: {FEWEST_STEPS} are needed, and {counted(count, 'was', 'were')} found"
    return None


def grown_stacks(blocks: Blocks, steps: SnapshotSteps) -> list[GrownPlace[int]]:
    """The stacks that leak, or may. Of blocks from before the history, none is one of these."""
    rows = np.flatnonzero((blocks["start"] >= 0) & (blocks["stack"] >= 0))
    mine = blocks[rows]
    first = np.searchsorted(steps.ends, mine["start"], side="right")
    last = np.where(mine["end"] < 0, len(steps.ends), np.searchsorted(steps.ends, mine["end"], side="right"))
    stacks = mine["stack"].tolist()
    found = grown_places(first, last, mine["bytes"], len(steps.ends), stacks.__getitem__)
    return [grown._replace(still_held=rows[grown.still_held]) for grown in found]


def stack_leaks(grown: list[GrownPlace[int]], blocks: Blocks, category: Ints, lines: Callable[[int], Stack]) -> list[StackLeak]:
    """These stacks, with what they hold."""
    found = []
    for each in grown:
        held = np.bincount(category[each.still_held], weights=blocks["bytes"][each.still_held])
        kind = SNAPSHOT_CATEGORIES[int(held.argmax())]
        found.append(StackLeak(lines(each.place), kind, len(each.still_held), each.bytes, each.steps, each.growth))
    return found
