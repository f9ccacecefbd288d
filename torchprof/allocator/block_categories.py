"""What the blocks of a recorded history are used for: estimated, from the stack that allocated each and from when it was freed.

A snapshot does not say what a block is. The first that applies:

    workspaces            allocated for cuBLAS, cuDNN or another library
    communication buffers allocated by DistributedDataParallel, by FSDP for what it sends, or for a collective
    unsharded parameters  allocated by FSDP for what it gathers
    parameters            allocated where a module is made, moved or loaded, and held since: buffers as well
    gradients             freed by ``zero_grad``; or accumulated by autograd; or allocated in backward and held after it
    optimizer state       allocated in an optimizer's step and held after it
    inputs                allocated where a batch is moved; or outside of all else right before forward, held when it runs, and
                          not freed in backward
    activations           allocated in forward, or outside of all else, and freed in backward; or recomputed there and held
                          when backward goes on
    outputs               allocated in forward, and held after it and after backward; or right after forward, as the loss is
    temporaries           all else that is gone when what allocated it is over
    other                 all else that has a stack
    unknown               no stack was recorded, or the history ends before it shows which of these a block is

Where the history ends too early, a block is what most others of its stack and size are, or what all of its stack are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from torchprof.allocator.lifetimes import Blocks
from torchprof.allocator.stack_roles import Role

__all__ = ["SNAPSHOT_CATEGORIES", "block_categories"]

Ints = npt.NDArray[np.int64]

SNAPSHOT_CATEGORIES: Final = (
    "parameters",
    "unsharded parameters",
    "gradients",
    "optimizer state",
    "inputs",
    "activations",
    "outputs",
    "communication buffers",
    "workspaces",
    "temporaries",
    "other",
    "unknown",
)
UNKNOWN: Final = len(SNAPSHOT_CATEGORIES) - 1
TEMPORARIES: Final = SNAPSHOT_CATEGORIES.index("temporaries")

NO_PHASE: Final = (Role.UNKNOWN, Role.ZEROING, Role.LOADING, Role.GATHERING, Role.COMMUNICATION, Role.WORKSPACE)
"""What may be done in any phase."""
PART_OF_BACKWARD: Final = (Role.BACKWARD, Role.ACCUMULATION, Role.RECOMPUTATION)


def block_categories(blocks: Blocks, roles: Sequence[Role], freed_in: Sequence[Role]) -> Ints:
    """The category of each block, as an index of ``SNAPSHOT_CATEGORIES``.

    Args:
        roles: of each block, what was done when it was allocated.
        freed_in: what was done when it was freed.
    """
    role, start, end = np.array(roles, dtype=np.int64), blocks["start"], blocks["end"]
    phases = _Phases(start, role)
    freed, before = end >= 0, start < 0

    def held_at(entry: Ints) -> npt.NDArray[np.bool_]:
        return (entry >= 0) & (~freed | (end > entry))

    freed_by = np.array(freed_in, dtype=np.int64)
    freed_by = np.where(freed & (freed_by == Role.UNKNOWN), phases.at(end), freed_by)
    in_backward = freed & np.isin(freed_by, PART_OF_BACKWARD)
    over = phases.next_other(start, role)
    held_after, next_is_forward = held_at(over), (over >= 0) & (phases.at(over) == Role.FORWARD)
    backward = phases.next(start, Role.BACKWARD)
    forward_again = np.where(over >= 0, phases.next(over, Role.FORWARD), -1)
    backward_over = np.where(backward >= 0, phases.next_other(backward, np.full(len(blocks), int(Role.BACKWARD))), -1)
    has_backward = (backward >= 0) & ((forward_again < 0) | (backward < forward_again))
    held_past_backward = held_at(np.where(has_backward, backward_over, forward_again))
    held_in_forward = held_at(phases.next(start, Role.FORWARD))
    by_forward, by_backward, by_optimizer, by_loading = (
        role == each for each in (Role.FORWARD, Role.BACKWARD, Role.OPTIMIZER, Role.LOADING)
    )
    recomputed, by_program = role == Role.RECOMPUTATION, np.isin(role, [Role.OTHER, Role.ZEROING])
    rules = [
        ("workspaces", role == Role.WORKSPACE),
        ("communication buffers", role == Role.COMMUNICATION),
        ("unsharded parameters", role == Role.GATHERING),
        ("parameters", by_loading & (~freed | held_in_forward)),
        ("gradients", (freed_by == Role.ZEROING) | (role == Role.ACCUMULATION) | (by_backward & (held_after | before))),
        ("optimizer state", by_optimizer & (held_after | before)),
        ("inputs", role == Role.DATA),
        ("activations", recomputed & in_backward & held_at(backward)),
        ("activations", (by_forward | by_program | ((role == Role.UNKNOWN) & before)) & in_backward),
        ("outputs", by_forward & ((freed & held_after) | held_past_backward | before)),
        ("inputs", by_program & held_in_forward & freed & next_is_forward),
        ("outputs", by_program & held_in_forward & freed & (phases.before(start, role) == Role.FORWARD)),
        ("temporaries", freed & (by_forward | recomputed | by_backward | by_optimizer | by_loading)),
        ("temporaries", freed & by_program & ~held_after),
        ("other", freed & by_program),
    ]
    names = [SNAPSHOT_CATEGORIES.index(name) for name, _ in rules]
    found = np.select([rule for _, rule in rules], names, default=UNKNOWN)
    return _as_others_of_its_stack(found, blocks)


class _Phases:
    """When the program did what, told by its allocations. Recomputation is a part of backward."""

    def __init__(self, start: Ints, role: Ints) -> None:
        known = np.flatnonzero((start >= 0) & ~np.isin(role, NO_PHASE))
        self._start, self._role = start[known], role[known]

    def at(self, entries: Ints) -> Ints:
        """What was done at these entries."""
        row = np.searchsorted(self._start, entries, side="right") - 1
        found: Ints = np.append(self._role, int(Role.UNKNOWN))[row]
        return found

    def before(self, entries: Ints, role: Ints) -> Ints:
        """The last thing that was done before each, and that belongs to another phase than its role."""
        phase, of_start = _phases(role), _phases(self._role)
        found = np.full(len(entries), int(Role.UNKNOWN), dtype=np.int64)
        for each in np.unique(phase).tolist():
            mine, others = phase == each, of_start != each
            row = np.searchsorted(self._start[others], entries[mine], side="left") - 1
            found[mine] = np.append(of_start[others], int(Role.UNKNOWN))[row]
        return found

    def next(self, entries: Ints, role: Role) -> Ints:
        """The first entry behind each at which this was done; -1: none."""
        return _next(self._start[self._role == role], entries)

    def next_other(self, entries: Ints, role: Ints) -> Ints:
        """The first entry behind each that belongs to another phase than its role; -1: none."""
        phase, of_start = _phases(role), _phases(self._role)
        found = np.full(len(entries), -1, dtype=np.int64)
        for each in np.unique(phase).tolist():
            found[phase == each] = _next(self._start[of_start != each], entries[phase == each])
        return found


def _phases(role: Ints) -> Ints:
    found: Ints = np.where(np.isin(role, PART_OF_BACKWARD), int(Role.BACKWARD), role)
    return found


def _next(ascending: Ints, entries: Ints) -> Ints:
    found: Ints = np.append(ascending, -1)[np.searchsorted(ascending, entries, side="right")]
    return found


def _as_others_of_its_stack(category: Ints, blocks: Blocks) -> Ints:
    """What is unknown of a block has the category that most others of its stack and size have, or all of its stack.

    Not what was there before the history, and was not freed in it as the others were.
    """
    unknown = (category == UNKNOWN) & (blocks["stack"] >= 0) & (blocks["start"] >= 0)
    told = np.flatnonzero((category != UNKNOWN) & (blocks["stack"] >= 0))
    found = category.copy()
    stacks, sizes = blocks["stack"].tolist(), blocks["requested"].tolist()
    wanted = {stacks[row] for row in np.flatnonzero(unknown).tolist()}
    of_size: dict[tuple[int, int], Counter[int]] = {}
    of_stack: dict[int, set[int]] = {}
    for row in told.tolist():
        if stacks[row] in wanted:
            of_size.setdefault((stacks[row], sizes[row]), Counter())[int(category[row])] += 1
            of_stack.setdefault(stacks[row], set()).add(int(category[row]))
    for row in np.flatnonzero(unknown).tolist():
        if others := of_size.get((stacks[row], sizes[row])):
            found[row] = others.most_common(1)[0][0]
        elif len(kinds := of_stack.get(stacks[row], set())) == 1 and kinds != {TEMPORARIES}:  # which it outlived
            (found[row],) = kinds
    return found
