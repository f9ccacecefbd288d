"""Schedules: which steps of a loop are recorded."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from torchprof.arguments import check_int

__all__ = ["Schedule", "State", "schedule"]


class State(Enum):
    """What happens to a step."""

    OFF = "not recording"
    WARMUP = "warming up"
    ACTIVE = "recording"


@dataclass(frozen=True, slots=True)
class Schedule:
    """Cycles of ``wait`` steps that are not recorded, ``warmup`` steps that are recorded and left out of tables, and ``active``
    steps. ``repeat`` is the number of cycles; 0 repeats them for ever."""

    wait: int
    warmup: int
    active: int
    repeat: int

    @classmethod
    def always(cls) -> Schedule:
        """Every step is active."""
        return cls(0, 0, 0, 0)

    def state(self, step: int) -> State:
        """What happens to the step with this number, counted from 0."""
        cycle = self.wait + self.warmup + self.active
        if cycle == 0:
            return State.ACTIVE
        if self.repeat and step >= cycle * self.repeat:
            return State.OFF
        place = step % cycle
        return State.OFF if place < self.wait else State.WARMUP if place < self.wait + self.warmup else State.ACTIVE

    def cycle(self, step: int) -> int:
        """The number of the cycle that the step with this number is in, counted from 0."""
        cycle = self.wait + self.warmup + self.active
        return step // cycle if cycle else 0


def schedule(*, active: int, wait: int = 0, warmup: int = 0, repeat: int = 1) -> Schedule:
    """A schedule for `torchprof.profile`: which steps of a loop to record.

    Args:
        active: steps to record in each cycle; at least 1.
        wait: steps at the start of each cycle that are not recorded. Nothing is installed, so they cost nothing.
        warmup: steps that are recorded and left out of every table, because first steps are slower. Their allocations count
            as memory that is held.
        repeat: number of cycles, each with a trace of its own; 0 repeats them as long as the loop runs: ``on_trace_ready``
            takes each trace when its cycle ends.

    Raises:
        ArgumentError: a number is negative or not an int, or nothing is ever active.

    Example:
        >>> torchprof.schedule(wait=1, warmup=1, active=3)
        Schedule(wait=1, warmup=1, active=3, repeat=1)
    """
    for name, value, least in (("active", active, 1), ("wait", wait, 0), ("warmup", warmup, 0), ("repeat", repeat, 0)):
        check_int(name, value, least)
    return Schedule(wait, warmup, active, repeat)
