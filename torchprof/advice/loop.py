"""How long a step takes, which is what most findings are a part of, and what a change of some ops can be worth of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from torchprof.advice.finding import Worth
from torchprof.advice.registry import NotTold
from torchprof.analysis.steps import active_steps, step_times
from torchprof.trace.trace import Trace

__all__ = ["LEAST", "Loop", "loop_of"]

LEAST: Final = 0.02
"""Part of the time of a step below which a finding about time is not worth a word: steps differ by more from run to run."""


@dataclass(frozen=True, slots=True)
class Loop:
    """What was recorded of a loop.

    Attributes:
        steps: how many active steps; 1 where no steps were marked, which is then the whole recording.
        time: nanoseconds of one, on average.
        is_step: False where no steps were marked.
    """

    steps: int
    time: int
    is_step: bool

    def worth(self, high: float, basis: str, *, low: float = 0, measured: bool = True) -> Worth:
        """So many nanoseconds of a step, at most all of it."""
        most = min(round(high), self.time)
        return Worth("step time" if self.is_step else "recording", min(round(low), most), most, self.time, measured, basis)

    def is_small(self, time: float) -> bool:
        """Whether so many nanoseconds of a step are not worth a word."""
        return time < LEAST * self.time

    @property
    def a_step(self) -> str:
        """``"a step"``, or what takes its place where no steps were marked."""
        return "a step" if self.is_step else "the recording"


def loop_of(trace: Trace) -> Loop:
    """
    Raises:
        NotTold: there is nothing but warm-up, or it is not known how long it took.
    """
    if len(trace.steps) and not len(active_steps(trace)):
        raise NotTold("every step is warm-up")
    times = step_times(trace)
    if times is not None and len(times.time):
        return Loop(len(times.time), int(times.time.mean()), times.is_step)
    duration = int(trace.facts.get("duration_ns", 0))
    if not duration:
        raise NotTold("it is not known how long the recording took")
    return Loop(1, duration, False)
