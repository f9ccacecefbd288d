"""The steps of a recorded history, which has none of its own: found from what recurs in it.

The first that recurs often enough says where steps end:

    ranges "ProfilerStep#n"        of torch.profiler
    ranges "Optimizer.step#..."    which every optimizer of PyTorch opens; of several, those of the first. A step ends where
                                   forward begins again
    optimizers                     forward begins after what they allocated
    backward                       forward begins after it
    a stack                        where none of these is in most of the history: the first of those that allocated once a step

What allocates once a step and what allocates in each of 24 layers are told apart by counts: those of nearly all stacks are
multiples of the number of steps.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from torchprof.allocator.lifetimes import Blocks
from torchprof.allocator.stack_roles import Role
from torchprof.analysis.memory.leaks import FEWEST_STEPS
from torchprof.importers.cuda_snapshot import Annotation

__all__ = ["SnapshotSteps", "snapshot_steps"]

Ints = npt.NDArray[np.int64]

PROFILER_STEP = "ProfilerStep#"
OPTIMIZER_STEP = "Optimizer.step#"
MOST: Final = 0.9
"""The share of stacks whose counts are multiples of the number of steps, at least: some allocate now and then."""


class SnapshotSteps(NamedTuple):
    """Steps of a history.

    Attributes:
        ends: the entry before which each ends; ascending.
        told_by: what says so.
        stack: the number of the stack that says so; -1: none does.
    """

    ends: Ints
    told_by: str
    stack: int = -1


def snapshot_steps(
    blocks: Blocks, roles: Sequence[Role], annotations: Sequence[Annotation], times: Sequence[int] | None, entries: int
) -> SnapshotSteps | None:
    """The steps of a history; None where nothing recurs.

    Args:
        roles: of each block, what was done when it was allocated.
        annotations, times: ranges of the program, and the time of each entry; microseconds.
        entries: how many the history has.
    """
    start, role = blocks["start"], np.array(roles, dtype=np.int64)
    here = start >= 0
    forward = start[here & (role == Role.FORWARD)]
    found = [*_of_ranges(annotations, times, forward, entries)] if times is not None else []
    for before, name in ((Role.OPTIMIZER, "the optimizer"), (Role.BACKWARD, "backward")):
        found.append(SnapshotSteps(_rounds(start[here], role[here], before, entries), name))
    if enough := next((steps for steps in found if len(steps.ends) >= FEWEST_STEPS), None):
        return enough
    most = max(found, key=lambda steps: len(steps.ends))
    # A training of one step has one, however often its layers recur; one pass before all else says nothing of the rest.
    return most if len(most.ends) and most.ends[-1] > entries // 2 else _recurring(blocks, role, entries)


def _of_ranges(annotations: Sequence[Annotation], times: Sequence[int], forward: Ints, entries: int) -> Iterator[SnapshotSteps]:
    named: dict[str, list[int]] = {}
    for annotation in annotations:
        if annotation.name.startswith(PROFILER_STEP):
            named.setdefault(PROFILER_STEP, []).append(annotation.end)
        elif annotation.name.startswith(OPTIMIZER_STEP):
            named.setdefault(annotation.name, []).append(annotation.end)
    for name in sorted(named, key=lambda name: name != PROFILER_STEP):  # stable: of the optimizers, the first that ran
        ends = np.searchsorted(np.array(times), sorted(named[name]), side="right")
        if name != PROFILER_STEP and len(forward):  # what follows an optimizer is of the same step, until forward begins
            ends = np.append(forward, entries)[np.searchsorted(forward, ends)]
        yield SnapshotSteps(np.unique(ends[ends > 0]), f"{name.removesuffix('#')} ranges")


def _rounds(start: Ints, role: Ints, before: Role, entries: int) -> Ints:
    """Where forward begins again after this was done; and the end, where it was done since."""
    known = np.flatnonzero((role == Role.FORWARD) | (role == before))
    is_forward = role[known] == Role.FORWARD
    begins = known[1:][is_forward[1:] & ~is_forward[:-1]]
    ends = start[begins]
    return np.append(ends, entries) if len(known) and not is_forward[-1] else ends


def _recurring(blocks: Blocks, role: Ints, entries: int) -> SnapshotSteps:
    counted = (blocks["start"] >= 0) & (blocks["stack"] >= 0) & (role != Role.LOADING)
    counts = Counter(blocks["stack"][counted].tolist())
    often = Counter(count for count in counts.values() if count > 1)
    if not often:
        return SnapshotSteps(np.zeros(0, dtype=np.int64), "")
    steps = _once_a_step(often)
    stack = next(stack for stack, count in counts.items() if count == steps)  # in the order of their first blocks
    begins = blocks["start"][counted & (blocks["stack"] == stack)]
    return SnapshotSteps(np.append(begins[1:], entries), "a stack that recurs", stack)


def _once_a_step(often: Counter[int]) -> int:
    """How often the stacks allocated that did so once a step, of how many stacks allocated how often: the smallest number of
    which nearly all are multiples. Where there is none, as many did as in no other number."""
    total = sum(often.values())
    for count in sorted(often):
        multiples = sum(stacks for each, stacks in often.items() if each % count == 0)
        if (often[count] > 1 or total == 1) and multiples >= MOST * total:
            return count
    return max(often, key=lambda count: (often[count], -count))
