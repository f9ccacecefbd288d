"""How long a step takes, which is what most findings are a part of, and what a change of some ops can be worth of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from torchprof.advice.finding import Worth
from torchprof.advice.registry import NotTold
from torchprof.analysis.gpu.backend import has_kernels
from torchprof.analysis.gpu.step_spans import device_busy, device_span
from torchprof.analysis.steps import active_steps, step_times
from torchprof.trace.trace import Trace

__all__ = ["LEAST", "Loop", "loop_of"]

LEAST: Final = 0.02
"""Part of the time of a step below which a finding about time is not worth a word: steps differ by more from run to run."""
AHEAD: Final = 1.02
"""How many times as long as the host devices must take for a step, to be what it waits for: clocks agree roughly."""


@dataclass(frozen=True, slots=True)
class Loop:
    """What was recorded of a loop.

    Attributes:
        steps: how many active steps; 1 where no steps were marked, which is then the whole recording.
        time: nanoseconds of one, on average: of the host or, where devices take longer for it, of these.
        is_step: False where no steps were marked.
        host: nanoseconds of the host for one.
        idle: nanoseconds of one in which no device ran anything; None where there is none, or it is not known.
    """

    steps: int
    time: int
    is_step: bool
    host: int
    idle: int | None = None

    def worth(self, high: float, basis: str, *, low: float = 0, measured: bool = True) -> Worth:
        """So many nanoseconds of a step, at most all of it."""
        most = min(round(high), self.time)
        return Worth("step time" if self.is_step else "recording", min(round(low), most), most, self.time, measured, basis)

    def most_saved(self, host: float, device: float = 0.0) -> float:
        """What is saved of a step at most where so many nanoseconds of the host and of devices are.

        Without a device, what the host saves. With one, no more than the longer of both; and the host can only save time in
        which the device had nothing to do: while it works, it does not matter how long the host takes.
        """
        return host if self.idle is None else min(max(host, device), self.idle + device)

    @property
    def of_devices(self) -> bool:
        """Whether a step is as long as devices take for it, as the host is ahead of them."""
        return self.time > self.host

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
        return _with_devices(trace, len(times.time), int(times.time.mean()), times.is_step)
    duration = int(trace.facts.get("duration_ns", 0))
    if not duration:
        raise NotTold("it is not known how long the recording took")
    return _with_devices(trace, 1, duration, False)


def _with_devices(trace: Trace, steps: int, host: int, is_step: bool) -> Loop:
    if not has_kernels(trace) or not (busy := device_busy(trace)):
        return Loop(steps, host, is_step, host)
    span = device_span(trace)
    time = span if span > AHEAD * host else host
    return Loop(steps, time, is_step, host, max(0, time - busy))
