"""For how long every stage of a pipeline idles, and why: the records of the table of bubbles.

A batch goes through a pipeline from when its first rank begins to work on a microbatch until its last one has worked on one. In
that time a rank idles while it computes nothing:

- in *warm-up*, before its first microbatch, and while it waits for the first gradient;
- in *drain*, after its last microbatch and, where ranks alternate between forward and backward, while it waits for gradients
  after its last forward;
- *waiting* for a stage that is slower: in all else of the time, while a message was under way that was there, or was sent,
  before it worked on. With GPipe and 1F1B no rank would wait then if all stages took equally long;
- the *rest*, such as Python between ops.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from torchprof.analysis.distributed.clocks import clocks_of
from torchprof.analysis.distributed.computing import Computing, computing_of
from torchprof.analysis.distributed.intervals import Intervals
from torchprof.analysis.distributed.messages import MICROBATCH_PHASES, transfers_of
from torchprof.analysis.distributed.pipelines import Pipeline, pipelines_of
from torchprof.analysis.records import Record
from torchprof.analysis.remembered import remembered
from torchprof.analysis.steps import NEVER, active_steps, step_of
from torchprof.trace.ranks import Ranks
from torchprof.trace.schema import Phase
from torchprof.trace.trace import Trace

__all__ = ["CAUSES", "SOURCES", "bubble_records", "ideal_bubble", "own_time", "slowest_stage"]

Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

CAUSES: Final = ("warm_up", "drain", "waits_input", "waits_gradient", "rest")
"""What a bubble is of; these add up to it."""
ONE_STAGE: Final = ("ScheduleGPipe", "Schedule1F1B", "_ScheduleForwardOnly", None)
SEVERAL_STAGES: Final = ("ScheduleLoopedBFS", "ScheduleInterleaved1F1B")


SOURCES: Final = ("https://arxiv.org/abs/1811.06965, section 2.3", "https://arxiv.org/abs/2104.04473, section 2.2")
"""Of the ideal bubble: with one stage on each rank, and with several."""
LEAST: Final = 0.05
"""Of a batch: how much more a stage has to do than the others, below which none is slow."""
FIGURES: Final = ("batch", "worked", "bubble", *CAUSES, "bubble_share", "unseen")


def ideal_bubble(pipeline: Pipeline) -> float | None:
    """The share of its time that each rank of a pipeline idles, if all stages take equally long and messages no time.

    ``(p - 1) / (m + p - 1)`` for ``p`` ranks and ``m`` microbatches: https://arxiv.org/abs/1811.06965, section 2.3. With ``v``
    stages on each rank, ``(p - 1) / (v m + p - 1)``: https://arxiv.org/abs/2104.04473, section 2.2. None: of this schedule, or
    without knowing the microbatches, it is not known.
    """
    ranks, stages = len(pipeline.members), len(pipeline.ranks)
    each = stages // ranks
    fits = pipeline.schedule in (ONE_STAGE if each == 1 else SEVERAL_STAGES)
    if pipeline.microbatches is None or stages % ranks or not fits:
        return None
    return (ranks - 1) / (each * pipeline.microbatches + ranks - 1)


@remembered
def bubble_records(ranks: Ranks) -> list[Record]:
    """One record for every rank of every pipeline, in the order of their stages.

    Keys: ``name rank stage`` (the numbers of its stages), ``pipeline`` (which one); of a step, in nanoseconds, ``batch``, the
    time that the pipeline takes for it, ``worked``, in which this rank computed meanwhile, and ``bubble``, in which it did not;
    of that ``warm_up drain waits_input waits_gradient rest``: waiting for the activations of the stage before or the gradients
    of the one behind. ``bubble_share``, of ``batch``; ``ideal``, what that is if all stages take equally long; ``unseen``, how
    much of ``batch`` is before or after what the rank recorded. What is not known is None.
    """
    return [record for number, pipeline in enumerate(pipelines_of(ranks)) for record in _of_pipeline(ranks, pipeline, number)]


def slowest_stage(records: list[Record]) -> tuple[Record, float] | None:
    """Of the ranks of a pipeline, the one that has most to do, and nanoseconds of a step that the others have on average.

    What a rank has to do is the batch without warm-up, drain and waiting: what it computed, and the rest. None where all have
    about as much to do, or it is not known.
    """
    if len(records) < 2 or any(record["rest"] is None for record in records):
        return None
    most = max(records, key=own_time)
    others = [own_time(record) for record in records if record is not most]
    mean = sum(others) / len(others)
    return (most, mean) if own_time(most) - mean >= LEAST * most["batch"] else None


def own_time(record: Record) -> float:
    """Nanoseconds of a step for which a rank had something to do itself: what it computed, and the rest."""
    return float(record["worked"] + record["rest"])


class _Spans(NamedTuple):
    """When a rank worked on microbatches, in every step: one value for each; by the clock of all, or of its trace.

    Attributes:
        first, last: when it began, and when it was done.
        first_backward: when its first backward began; `NEVER` without one.
        last_forward: when its last forward began.
    """

    first: Ints
    last: Ints
    first_backward: Ints
    last_forward: Ints


def _of_pipeline(ranks: Ranks, pipeline: Pipeline, number: int) -> list[Record]:
    origins = clocks_of(ranks).origins
    traces = dict(zip(ranks.numbers, ranks, strict=True))
    found = {rank: _spans(traces[rank]) for rank in pipeline.members if rank in traces}
    steps = sorted(set.intersection(*(set(numbers) for numbers, _ in found.values())))
    spans = {rank: _Spans(*(times[np.isin(numbers, steps)] for times in of_rank)) for rank, (numbers, of_rank) in found.items()}
    begins = np.min([of.first + origins[rank] for rank, of in spans.items()], axis=0)
    ends = np.max([of.last + origins[rank] for rank, of in spans.items()], axis=0)
    alternate = np.any([of.first_backward < of.last_forward for of in spans.values()], axis=0)
    ideal = ideal_bubble(pipeline)
    return [
        {
            "name": str(rank),
            "rank": rank,
            "stage": pipeline.stages_of(rank),
            "pipeline": number,
            **_figures(traces[rank], begins - origins[rank], ends - origins[rank], of, alternate),
            "ideal": ideal,
        }
        for rank, of in spans.items()
    ]


def _spans(trace: Trace) -> tuple[list[int], _Spans]:
    """The numbers of the steps in which the rank worked on microbatches, and when it did; by the clock of the trace."""
    computing, active = computing_of(trace), active_steps(trace)
    step = step_of(computing.asked, trace, active)
    count = len(active) if len(trace.steps) else 1
    first, first_backward = (np.full(count, NEVER) for _ in range(2))
    last, last_forward = (np.full(count, -NEVER) for _ in range(2))
    is_work = np.isin(computing.phase, MICROBATCH_PHASES) & (step >= 0)
    forward, backward = (np.flatnonzero(is_work & of) for of in _by_direction(computing))
    for rows in (forward, backward):
        np.minimum.at(first, step[rows], computing.start[rows])
        np.maximum.at(last, step[rows], computing.end[rows])
    np.minimum.at(first_backward, step[backward], computing.start[backward])
    np.maximum.at(last_forward, step[forward], computing.start[forward])
    worked = np.flatnonzero(first < NEVER)
    numbers = active["number"][worked].tolist() if len(trace.steps) else [0] * len(worked)
    return numbers, _Spans(*(times[worked] for times in (first, last, first_backward, last_forward)))


def _by_direction(computing: Computing) -> tuple[Mask, Mask]:
    is_forward = computing.phase == Phase.FORWARD
    return is_forward, ~is_forward


def _figures(trace: Trace, begins: Ints, ends: Ints, of: _Spans, alternate: Mask) -> Record:
    """The figures of a rank: means over steps. All times are by the clock of its trace."""
    count = len(begins)
    if not count:
        return dict.fromkeys(FIGURES)
    computing = computing_of(trace)
    busy = Intervals.of(computing.start, computing.end)

    def idle(start: Ints, end: Ints) -> int:
        return int((end - start - (busy.before(end) - busy.before(start))).sum())

    batch, bubble = int((ends - begins).sum()), idle(begins, ends)
    ends_of_it = {"warm_up": idle(begins, of.first), "drain": idle(of.last, ends)}
    waits = _waits(trace, busy, of, alternate)
    known = {name: ends_of_it.get(name, 0) + time for name, time in waits.items()} if waits is not None else ends_of_it
    recorded = max(int(trace.facts.get("duration_ns", 0)), int(of.last.max()))
    sums: Record = {
        **dict.fromkeys(FIGURES),
        "batch": batch,
        "worked": batch - bubble,
        "bubble": bubble,
        **known,
        "rest": bubble - sum(known.values()) if waits is not None else None,
        "unseen": int((np.maximum(-begins, 0) + np.maximum(ends - recorded, 0)).sum()),
    }
    means = {name: value / count if value is not None else None for name, value in sums.items()}
    return {**means, "bubble_share": bubble / batch if batch else None}


def _waits(trace: Trace, busy: Intervals, of: _Spans, alternate: Mask) -> dict[str, int] | None:
    """Nanoseconds for which nothing was computed and a message held up the work on a microbatch, by cause.

    A message holds up what begins when it is there: the time counts from when it was asked for, or when the work before ended.
    """
    transfers, computing = transfers_of(trace), computing_of(trace)
    if transfers is None:
        return None
    asked, done = transfers
    is_work = np.isin(computing.phase, MICROBATCH_PHASES)
    start, is_forward = computing.start[is_work], computing.phase[is_work] == Phase.FORWARD
    work = Intervals.of(start, computing.end[is_work])
    before = np.searchsorted(work.end, done, side="right") - 1
    behind = np.searchsorted(work.start, done)
    between = (before >= 0) & (behind == before + 1) & (behind < len(work.start))
    begins, done = np.maximum(asked, np.append(work.end, 0)[before])[between], done[between]
    held_up = np.searchsorted(start, done)
    forward, begun = is_forward[held_up], start[held_up]
    step = np.searchsorted(of.first, done, side="right") - 1
    warm_up = begun == of.first_backward[step]
    drain = ~forward & ~warm_up & alternate[step] & (begun > of.last_forward[step])
    window = Intervals.of(of.first, of.last)
    causes = {
        "warm_up": warm_up,
        "drain": drain,
        "waits_input": forward,
        "waits_gradient": ~(forward | warm_up | drain),
    }
    return {name: (Intervals.of(begins[rows], done[rows]) & window).without(busy) for name, rows in causes.items()}
