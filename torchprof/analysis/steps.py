"""The steps of a training loop, the step that a moment lies in, and how the time of steps divides into phases."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from torchprof.analysis.spans import latest_before
from torchprof.trace.schema import Phase, Rows
from torchprof.trace.trace import Trace

__all__ = [
    "NEVER",
    "PHASE_COLUMNS",
    "StepTimes",
    "active_steps",
    "counts_evaluations",
    "end_of_step",
    "evaluation_steps",
    "how_to_mark_steps",
    "numbered_from",
    "step_of",
    "step_times",
    "warmup_count",
]

PHASE_COLUMNS: Final = {
    "forward": Phase.FORWARD,
    "recompute": Phase.RECOMPUTATION,
    "backward": Phase.BACKWARD,
    "optimizer": Phase.OPTIMIZER,
    "data": Phase.DATA,
}
"""Columns of times by phase. What is left of a step is of `Phase.OTHER`."""
NEVER: Final = np.iinfo(np.int64).max


@dataclass(frozen=True, slots=True)
class StepTimes:
    """Nanoseconds of every step, and of these in each phase, which add up to them: one value per step.

    A recording without steps is one step, from its start to its end.

    Attributes:
        time: from the start of a step to its end.
        by_phase: for every `Phase`.
        is_step: False where no steps were marked.
    """

    time: npt.NDArray[np.int64]
    by_phase: dict[Phase, npt.NDArray[np.int64]]
    is_step: bool


def step_times(trace: Trace, steps: Rows | None = None) -> StepTimes | None:
    """The times of the active steps, or of these; None where they are not known."""
    if not len(trace.steps):
        recorded = trace.facts.get("phase_ns")
        if recorded is None:
            return None
        by_phase = {phase: np.array([recorded[phase]], dtype=np.int64) for phase in Phase}
        return StepTimes(sum(by_phase.values(), np.zeros(1, dtype=np.int64)), by_phase, False)
    steps = active_steps(trace) if steps is None else steps
    time = steps["end"] - steps["start"]
    by_phase = {phase: steps[name] for name, phase in PHASE_COLUMNS.items()}
    by_phase[Phase.OTHER] = time - sum(by_phase.values(), np.zeros(len(steps), dtype=np.int64))
    return StepTimes(time, by_phase, True)


def active_steps(trace: Trace) -> Rows:
    """The steps that are not warm-up. Only these count in tables and accounts."""
    active: Rows = trace.steps[trace.steps["warmup"] == 0]
    return active


def numbered_from(trace: Trace, first: int) -> Trace:
    """The trace with steps that are counted from this number in place of 0: of a recording that began in a later step."""
    if not first or not len(trace.steps):
        return trace
    steps = trace.steps.copy()
    steps["number"] += first
    return replace(trace, steps=steps)


def how_to_mark_steps(trace: Trace) -> str:
    """What a recording needs to have steps."""
    if "source" in trace.facts:
        return (
            "record with schedule= of torch.profiler.profile, without which it writes none, and call prof.step() at the end of "
            "every pass of the loop"
        )
    return "call prof.step() at the end of every pass of the loop"


def step_of(times: Rows, trace: Trace, active: Rows) -> npt.NDArray[np.int64]:
    """The index of the active step that each time lies in; -1 for none. Without steps, everything is in step 0."""
    if not len(trace.steps):
        return np.zeros(len(times), dtype=np.int64)
    if not len(active):
        return np.full(len(times), -1, dtype=np.int64)
    step = latest_before(active["start"], times)
    return np.where((step >= 0) & (times < active["end"][step]), step, -1)


def end_of_step(times: Rows, trace: Trace) -> npt.NDArray[np.int64]:
    """When the active step ends that each time lies in; where it lies in none, never: the largest number there is."""
    active = active_steps(trace)
    return np.append(active["end"], NEVER)[step_of(times, trace, active)] if len(active) else np.full(len(times), NEVER)


def evaluation_steps(trace: Trace) -> list[int]:
    """The numbers of the steps in which a model was also evaluated, as `torchprof run` and `torchprof.watch` found them."""
    found = trace.facts.get("evaluation_steps", ())
    return [number for number in found if isinstance(number, int)] if isinstance(found, list | tuple) else []


def counts_evaluations(trace: Trace) -> bool:
    """Whether steps in which a model was also evaluated are in the means: sums have them, and of others a recording in which
    every step is one."""
    return bool(np.isin(active_steps(trace)["number"], evaluation_steps(trace)).any())


def warmup_count(trace: Trace) -> int:
    """How many steps are warm-up, without those that are left out as a model was evaluated in them."""
    warmup = trace.steps["number"][trace.steps["warmup"] != 0]
    return int(np.isin(warmup, evaluation_steps(trace), invert=True).sum())
