"""Stages of a pipeline that idle."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from torchprof.advice.finding import Finding, Worth
from torchprof.advice.loop import LEAST
from torchprof.advice.registry import NotTold, rank_rule
from torchprof.analysis.distributed.bubble_records import CAUSES, bubble_records, own_time, slowest_stage
from torchprof.analysis.distributed.straggler_records import step_time
from torchprof.analysis.lines.stack_costs import is_aggregated
from torchprof.analysis.records import Record
from torchprof.rendering.units import format_ns
from torchprof.tables.late_words import one_alone
from torchprof.trace.ranks import Ranks, listed
from torchprof.wording import counted

__all__ = ["bubbles"]

WORDS: Final = {
    "warm_up": "warm-up",
    "drain": "drain",
    "waits_input": "waiting for activations of a slower stage",
    "waits_gradient": "waiting for gradients of a slower stage",
    "rest": "else, as Python between ops",
}
MORE: Final = (
    "Divide the batch into more microbatches, or give each rank several stages (ScheduleInterleaved1F1B): the ideal bubble is "
    "(p - 1) / (m + p - 1) of the batch, for p stages and m microbatches."
)
EVEN: Final = "Move layers from the slowest stage to the others, so that all take equally long for a microbatch."
PYTHON: Final = (
    "Look at what Python does between ops, and at what launches kernels late: torchprof.by_line of the traces of these ranks."
)


@rank_rule("stages of a pipeline that idle")
def bubbles(ranks: Ranks) -> Iterator[Finding]:
    """The pipelines whose ranks idle by a part of the step that counts, on average, and most of that why."""
    if alone := one_alone(ranks):
        raise NotTold(alone)
    if any(map(is_aggregated, ranks)):
        raise NotTold("the recordings were aggregated, which keeps no single messages")
    records, step = [record for record in bubble_records(ranks) if record["batch"] is not None], step_time(ranks)
    if not records:
        return
    if not step:
        raise NotTold("the time of a step is not known")
    numbers = sorted({record["pipeline"] for record in records})
    for number in numbers:
        of = [record for record in records if record["pipeline"] == number]
        idle = _mean(of, "bubble")
        if idle < LEAST * step:
            continue
        share, ideal = idle / of[0]["batch"], of[0]["ideal"]
        beside = f", where the schedule has {100 * ideal:.1f}%" if ideal is not None else ""
        which = f"pipeline {number}" if len(numbers) > 1 else "the pipeline"
        yield Finding(
            "bubbles",
            f"The {counted(len(of), 'rank')} of {which} idle for {100 * share:.1f}% of the batch on average{beside}",
            _advice(of),
            "https://docs.pytorch.org/docs/stable/distributed.pipelining.html",
            Worth(
                "step time",
                0,
                min(round(idle), round(step)),
                round(step),
                measured=False,
                basis="the time in which a rank computed nothing while its pipeline worked on the batch",
            ),
            details=(
                *(f"{WORDS[cause]}: {format_ns(round(time))} of a step" for cause, time in _causes(of)),
                *_slowest(of),
            ),
        )


def _mean(records: Sequence[Record], name: str) -> float:
    return sum(record[name] or 0 for record in records) / len(records)


def _causes(records: Sequence[Record]) -> list[tuple[str, float]]:
    """What it is of, the largest first: means over ranks."""
    found = [(cause, _mean(records, cause)) for cause in CAUSES]
    return sorted(((cause, time) for cause, time in found if time), key=lambda each: -each[1])


def _advice(records: list[Record]) -> str:
    sums = dict(_causes(records))
    of_schedule = sums.get("warm_up", 0) + sums.get("drain", 0)
    waiting, rest = sums.get("waits_input", 0) + sums.get("waits_gradient", 0), sums.get("rest", 0)
    if of_schedule >= max(waiting, rest):
        return f"{MORE} {EVEN}" if slowest_stage(records) is not None else MORE
    return PYTHON if rest > waiting else EVEN


def _slowest(records: list[Record]) -> Iterator[str]:
    if (found := slowest_stage(records)) is not None:
        slow, others = found
        time = f"{format_ns(round(own_time(slow)))} of a step, and the others {format_ns(round(others))}"
        yield f"stage {listed(slow['stage'])} (rank {slow['rank']}) has most to do itself: {time}"
