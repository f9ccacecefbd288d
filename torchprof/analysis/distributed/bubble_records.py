"""For how long every stage of a pipeline idles, and why: the records of the table of bubbles.

A batch goes through a pipeline from when its first rank begins to work on a microbatch until its last one has worked on one. In
that time a rank idles while it computes nothing: in *warm-up*, before its own first microbatch; in *drain*, after its own last
one; between, it *waits* where a message was under way that was there, or was sent, before it worked on; and all else is the
*rest*, such as Python between ops.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from torchprof.analysis.distributed.clocks import clocks_of
from torchprof.analysis.distributed.computing import computing_of
from torchprof.analysis.distributed.intervals import Intervals
from torchprof.analysis.distributed.messages import MICROBATCH_PHASES, transfers_of
from torchprof.analysis.distributed.pipelines import Pipeline, pipelines_of
from torchprof.analysis.records import Record
from torchprof.analysis.remembered import remembered
from torchprof.analysis.steps import active_steps, step_of
from torchprof.trace.ranks import Ranks
from torchprof.trace.schema import Phase
from torchprof.trace.trace import Trace

__all__ = ["CAUSES", "SOURCES", "bubble_records", "ideal_bubble", "slowest_stage"]

Ints = npt.NDArray[np.int64]

CAUSES: Final = ("warm_up", "drain", "waits_input", "waits_gradient", "rest")
"""What a bubble is of; these add up to it."""
ONE_STAGE: Final = ("ScheduleGPipe", "Schedule1F1B", "_ScheduleForwardOnly", None)
SEVERAL_STAGES: Final = ("ScheduleLoopedBFS", "ScheduleInterleaved1F1B")


SOURCES: Final = ("https://arxiv.org/abs/1811.06965, section 2.3", "https://arxiv.org/abs/2104.04473, section 2.2")
"""Of the ideal bubble: with one stage on each rank, and with several."""
LEAST: Final = 0.05
"""Of a batch: how much longer another stage waits than the slowest one, below which none is slow."""
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
    much of warm-up and drain is before or after what the rank recorded. What is not known is None.
    """
    return [record for number, pipeline in enumerate(pipelines_of(ranks)) for record in _of_pipeline(ranks, pipeline, number)]


def slowest_stage(records: list[Record]) -> tuple[Record, Record] | None:
    """Of the ranks of a pipeline, the one that waits least, and the one that waits most: others wait for the slowest one.

    None where all of them wait about as long, or it is not known.
    """
    if len(records) < 2 or any(record["rest"] is None for record in records):
        return None
    waited = [record["waits_input"] + record["waits_gradient"] for record in records]
    least, most = min(waited), max(waited)
    if most - least < LEAST * records[0]["batch"]:
        return None
    return records[waited.index(least)], records[waited.index(most)]


def _of_pipeline(ranks: Ranks, pipeline: Pipeline, number: int) -> list[Record]:
    origins = clocks_of(ranks).origins
    traces = dict(zip(ranks.numbers, ranks, strict=True))
    spans = {rank: _spans(traces[rank], origins[rank]) for rank in pipeline.members if rank in traces}
    steps = sorted(set.intersection(*map(set, spans.values())))
    worked = np.array([[spans[rank][step] for step in steps] for rank in spans], dtype=np.int64).reshape(len(spans), -1, 2)
    begins, ends = worked[:, :, 0].min(axis=0), worked[:, :, 1].max(axis=0)
    ideal = ideal_bubble(pipeline)
    return [
        {
            "name": str(rank),
            "rank": rank,
            "stage": pipeline.stages_of(rank),
            "pipeline": number,
            **_figures(traces[rank], *(times - origins[rank] for times in (begins, ends, of[:, 0], of[:, 1]))),
            "ideal": ideal,
        }
        for rank, of in zip(spans, worked, strict=True)
    ]


def _spans(trace: Trace, origin: int) -> dict[int, tuple[int, int]]:
    """Of every step in which the rank worked on microbatches, by number, when it began and ended; by the clock of all."""
    computing, active = computing_of(trace), active_steps(trace)
    step = step_of(computing.asked, trace, active)
    rows = np.flatnonzero(np.isin(computing.phase, MICROBATCH_PHASES) & (step >= 0))
    found, first = np.unique(step[rows], return_index=True)  # rows are in order of their starts
    last = np.full(int(step.max(initial=0)) + 1, np.iinfo(np.int64).min)
    np.maximum.at(last, step[rows], computing.end[rows])
    numbers = active["number"][found].tolist() if len(trace.steps) else [0] * len(found)
    times = zip((computing.start[rows[first]] + origin).tolist(), (last[found] + origin).tolist(), strict=True)
    return dict(zip(numbers, times, strict=True))


def _figures(trace: Trace, begins: Ints, ends: Ints, first: Ints, last: Ints) -> Record:
    """The figures of a rank: means over steps. Times are those of its trace: of the pipeline, and of the rank itself."""
    count = len(begins)
    if not count:
        return dict.fromkeys(FIGURES)
    computing = computing_of(trace)
    busy = Intervals.of(computing.start, computing.end)

    def idle(start: Ints, end: Ints) -> int:
        return int((end - start - (busy.before(end) - busy.before(start))).sum())

    batch, bubble, warmup, drain = int((ends - begins).sum()), idle(begins, ends), idle(begins, first), idle(last, ends)
    waits = _waits(trace, busy, Intervals.of(first, last))
    recorded = max(int(trace.facts.get("duration_ns", 0)), int(last.max()))
    sums = {
        "batch": batch,
        "worked": batch - bubble,
        "bubble": bubble,
        "warm_up": warmup,
        "drain": drain,
        "waits_input": waits[0] if waits is not None else None,
        "waits_gradient": waits[1] if waits is not None else None,
        "rest": bubble - warmup - drain - sum(waits) if waits is not None else None,
        "unseen": int((np.maximum(-begins, 0) + np.maximum(ends - recorded, 0)).sum()),
    }
    means = {name: value / count if value is not None else None for name, value in sums.items()}
    return {**means, "bubble_share": bubble / batch if batch else None}


def _waits(trace: Trace, busy: Intervals, window: Intervals) -> tuple[int, int] | None:
    """Nanoseconds in this window for which nothing was computed and a message held up a forward, and a backward.

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
    of_forward = is_forward[np.searchsorted(start, done)]
    forward, backward = ((Intervals.of(begins[rows], done[rows]) & window).without(busy) for rows in (of_forward, ~of_forward))
    return forward, backward
