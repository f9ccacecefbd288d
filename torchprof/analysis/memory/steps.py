"""The memory of every step of a loop."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from torchprof.analysis.memory.allocator_totals import AllocatorTotals
from torchprof.analysis.memory.changes import Changes
from torchprof.analysis.memory.devices import resolve_device
from torchprof.analysis.memory.on_device import changes_on, totals_on
from torchprof.trace.schema import Rows
from torchprof.trace.trace import Trace

__all__ = ["StepMemory", "held_at_ends", "memory_is_known", "memory_of_steps", "not_recorded", "step_memory"]

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class StepMemory:
    """The memory of the steps on one device, in bytes, ``[steps]``. What was there before the recording is held too.

    Where ops or shapes were not recorded, of what was there before only inputs of modules are known.

    Attributes:
        allocated: allocated during the step, freed since or not.
        peak: the most held at once from its start to its end.
        held: held at its end.
    """

    allocated: Ints
    peak: Ints
    held: Ints


def step_memory(steps: Rows, changes: Changes, totals: AllocatorTotals) -> StepMemory:
    """The memory of these rows of ``trace.steps``."""
    before = np.array([changes.held_before + int(totals.untracked_at(np.array([0]))[0])])
    held = np.concatenate([before, changes.held + totals.untracked_at(changes.times)])
    first = np.searchsorted(changes.times, steps["start"], side="left")
    last = np.searchsorted(changes.times, steps["end"], side="left")
    allocated = np.concatenate([[0], np.cumsum(np.maximum(changes.bytes, 0))])
    peak = [held[begin : end + 1].max() for begin, end in zip(first.tolist(), last.tolist(), strict=True)]
    return StepMemory(allocated[last] - allocated[first], np.array(peak, dtype=np.int64), held[last])


def memory_is_known(trace: Trace) -> bool:
    """Whether the trace has single allocations: an aggregated one has the sums of steps only."""
    return trace.facts.get("memory") is not False and not trace.facts.get("aggregate")


def not_recorded(trace: Trace) -> list[str]:
    """What was not recorded of ``ops``, ``shapes`` and ``addresses`` of tensors: what used a block is unknown then."""
    return [option for option in ("ops", "shapes", "addresses") if trace.facts.get(option) is False]


def memory_of_steps(trace: Trace, device: str | None = None) -> StepMemory:
    """The memory of the steps of a trace on one device, by default that of `resolve_device`."""
    device = resolve_device(trace, device)
    changes = changes_on(trace, device)
    return step_memory(trace.steps, changes, AllocatorTotals(totals_on(trace, device), changes.held_before))


def held_at_ends(steps: Rows, allocations: Rows) -> tuple[Ints, Ints]:
    """In which steps every allocation of the recording was held at the end: from the first to before the second.

    Both are equal where it was held at the end of none, as it is for what was allocated before the recording.
    """
    ends, count = steps["end"], len(steps)
    first = np.searchsorted(ends, allocations["start"], side="right")
    last = np.where(allocations["end"] < 0, count, np.searchsorted(ends, allocations["end"], side="right"))
    return np.where(allocations["start"] < 0, last, first), last
