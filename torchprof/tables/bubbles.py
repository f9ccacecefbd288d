"""`torchprof.bubbles`: for how long the stages of a pipeline idle, and why."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from torchprof.analysis.distributed.bubble_records import CAUSES, SOURCES, bubble_records, ideal_bubble, own_time, slowest_stage
from torchprof.analysis.distributed.pipelines import Pipeline, pipelines_of
from torchprof.analysis.records import Record
from torchprof.rendering.units import format_ns
from torchprof.tables.across_ranks import check_ranks, check_single_ops, of_ranks
from torchprof.tables.clocks import clock_lines
from torchprof.tables.table import About, Table, worth_showing
from torchprof.trace.ranks import Ranks, listed
from torchprof.wording import counted

__all__ = ["bubbles"]

COLUMNS: Final = ("pipeline", "stage", "batch", "worked", "bubble", "bubble_share", *CAUSES)
NAMED: Final = 3
NO_PIPELINE: Final = (
    "No pipeline: no rank had a PipelineStage, and none sends to another what that one waits for before its forwards"
)
BY_MESSAGES: Final = "Stages: told by who sends to whom, as no rank had a PipelineStage"


def bubbles(ranks: Ranks) -> Table:
    """For how long every rank of a pipeline idles in a step, and why.

    *Batch* is the time that the pipeline takes for the batch of a step: from when its first rank begins to work on a
    microbatch, in forward or backward, until its last one is done. In that time a rank idles while it computes nothing: that is
    its *Bubble*.

    - *Warm-up* is before its first microbatch, and while it waits for the first gradient.
    - *Drain* is after its last microbatch and, where ranks alternate between forward and backward, while it waits for gradients
      after its last forward.
    - *For input* and *For grad* are waiting for a slower stage: in all other time, until the activations of the stage before or
      the gradients of the stage behind are there, or until it has sent its own. With GPipe and 1F1B there is none of it if all
      stages take equally long.
    - *Rest* is all else, such as Python between ops.

    Where devices worked, kernels of NCCL and RCCL send messages, and all others compute; on the CPU, innermost ops compute.

    The *ideal* bubble is that of the schedule if all stages take equally long and messages no time: ``(p - 1) / (m + p - 1)``
    for ``p`` ranks and ``m`` microbatches, with GPipe and 1F1B.

    Which ranks are stages of a pipeline is told by the ``PipelineStage`` of ``torch.distributed.pipelining`` that there is of a
    recorded model; else by who sends to whom, of ranks with one stage each.

    Args:
        ranks: of ``torchprof.load("run/")``, not aggregated. Their clocks are aligned as `clocks` says.

    Returns:
        A row for each rank of each pipeline, in nanoseconds of a step; none where there is no pipeline.

    Raises:
        ModuleTypeError: these are no ranks.
        ArgumentError: the trace of a rank has no single ops.

    Example:
        >>> print(torchprof.bubbles(torchprof.load("run/")))
    """
    check_ranks(ranks)
    check_single_ops(ranks)
    pipelines, rows = pipelines_of(ranks), bubble_records(ranks)
    below: list[str | About] = [*of_ranks(ranks), *clock_lines(ranks)]
    if not rows:
        return Table("Rank", rows, COLUMNS, (*below, NO_PIPELINE))
    chosen = worth_showing(rows, COLUMNS, optional=("waits_input", "waits_gradient"))
    if any(row["rest"] is None and row["batch"] is not None for row in rows):
        chosen = COLUMNS
        below.append("?: the backend of a message tells not when it runs, so that waiting is not told from the rest")
    if len(pipelines) == 1:
        chosen = tuple(name for name in chosen if name != "pipeline")
    below += [About(("bubble_share",), line) for line in _ideals(pipelines, rows)]
    below += _slowest(rows)
    if not pipelines[0].is_told:
        below.append(BY_MESSAGES)
    below += _unseen(rows)
    return Table("Rank", rows, chosen, tuple(below), unknown="?")


def _ideals(pipelines: Sequence[Pipeline], rows: Sequence[Record]) -> Iterator[str]:
    """The mean bubble beside the ideal one, and where that is from; once for all pipelines that are alike."""
    alike: dict[tuple[object, ...], list[int]] = {}
    for number, pipeline in enumerate(pipelines):
        key = (len(pipeline.members), len(pipeline.ranks), pipeline.schedule, pipeline.microbatches)
        alike.setdefault(key, []).append(number)
    sources = []
    for numbers in alike.values():
        shares = [row["bubble_share"] for row in rows if row["pipeline"] in numbers and row["bubble_share"] is not None]
        which = f" of {_pipelines(numbers)}" if len(alike) > 1 else ""
        mean = f", {100 * sum(shares) / len(shares):.1f}% on average" if shares else ""
        of, source = _ideal(pipelines[numbers[0]])
        sources.append(source)
        yield f"Share: of the batch{which}{mean}; {of}"
    yield from dict.fromkeys(filter(None, sources))


def _ideal(pipeline: Pipeline) -> tuple[str, str]:
    """How large the bubble is in the best case, and by which formula."""
    ranks, each = len(pipeline.members), len(pipeline.ranks) // len(pipeline.members)
    of = pipeline.schedule or "GPipe and 1F1B"
    if (ideal := ideal_bubble(pipeline)) is None:
        if pipeline.microbatches is None:
            return "the ideal is not told, as the number of microbatches is not known", ""
        return f"the ideal is not told, as there is no formula for {of}", ""
    stages = counted(ranks, "stage") if each == 1 else f"{ranks} ranks with {each} stages each"
    of_both = f"with {stages} and {counted(pipeline.microbatches or 0, 'microbatch', 'microbatches')}"
    formula = "(p - 1) / (m + p - 1)" if each == 1 else "(p - 1) / (v m + p - 1)"
    return f"ideal {100 * ideal:.1f}%, {of_both}", f"Ideal: {formula} of {of}: {SOURCES[each > 1]}"


def _slowest(rows: Sequence[Record]) -> Iterator[str]:
    numbers = sorted({row["pipeline"] for row in rows})
    for number in numbers[:NAMED]:
        if (found := slowest_stage([row for row in rows if row["pipeline"] == number])) is not None:
            slow, others = found
            which = f" of pipeline {number}" if len(numbers) > 1 else ""
            own, rest = format_ns(round(own_time(slow))), format_ns(round(others))
            yield (
                f"Slowest stage{which}: {listed(slow['stage'])} (rank {slow['rank']}), with {own} of a step without warm-up, "
                f"drain and waiting; the others have {rest} on average"
            )


def _unseen(rows: Sequence[Record]) -> Iterator[str]:
    """Time of which nobody knows what a rank did, as it did not record then."""
    unseen = [row for row in rows if row["unseen"]]
    if unseen:
        who = f"rank{'s' if len(unseen) > 1 else ''} {listed([row['rank'] for row in unseen])}"
        most = f"{'up to ' if len(unseen) > 1 else ''}{format_ns(round(max(row['unseen'] for row in unseen)))}"
        yield f"Warm-up, Drain: {most} of a step are before or after what {who} recorded, and are taken to be idle"


def _pipelines(numbers: Sequence[int]) -> str:
    return f"pipeline {numbers[0]}" if len(numbers) == 1 else f"pipelines {listed(numbers)}"
