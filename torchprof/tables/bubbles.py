"""`torchprof.bubbles`: for how long the stages of a pipeline idle, and why."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from torchprof.analysis.distributed.bubble_records import CAUSES, SOURCES, bubble_records, ideal_bubble, slowest_stage
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

    *Batch* is the time that the pipeline takes for the batch of a step: from when its first rank begins to work on a microbatch,
    in forward or backward, until its last one has ended to. In that time a rank idles while it computes nothing: that is its
    *Bubble*. *Warm-up* is before its own first microbatch, and *Drain* after its own last one. Between, it *waits for input*
    from the stage before or for *gradients* from the one behind: a message was under way that was there, or was sent, before it
    worked on. *Rest* is all else, such as Python between ops. Where devices worked, kernels of NCCL and RCCL are messages, and
    all others compute; on the CPU, innermost ops compute.

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
    """The mean bubble beside that of the schedule; once for all pipelines that are alike."""
    alike: dict[tuple[object, ...], list[int]] = {}
    for number, pipeline in enumerate(pipelines):
        key = (len(pipeline.members), len(pipeline.ranks), pipeline.schedule, pipeline.microbatches)
        alike.setdefault(key, []).append(number)
    for numbers in alike.values():
        pipeline = pipelines[numbers[0]]
        shares = [row["bubble_share"] for row in rows if row["pipeline"] in numbers and row["bubble_share"] is not None]
        mean = (
            f"{100 * sum(shares) / len(shares):.1f}% of the batch, the mean of {counted(len(shares), 'rank')}"
            if shares
            else "?"
        )
        which = f"Bubble of {_pipelines(numbers)}" if len(alike) > 1 else "Bubble"
        yield f"{which}: {mean}; {_ideal(pipeline)}"


def _ideal(pipeline: Pipeline) -> str:
    ranks, each = len(pipeline.members), len(pipeline.ranks) // len(pipeline.members)
    of = pipeline.schedule or "GPipe and 1F1B"
    if (ideal := ideal_bubble(pipeline)) is None:
        why = (
            "how many microbatches there are is not known" if pipeline.microbatches is None else f"there is no formula for {of}"
        )
        return f"the ideal one is not told: {why}"
    count, source = pipeline.microbatches, SOURCES[each > 1]
    formula = f"{ranks - 1} / ({f'{each} x ' if each > 1 else ''}{count} + {ranks - 1})"
    of_stages = f"{counted(ranks, 'stage')}" if each == 1 else f"{ranks} ranks with {each} stages each"
    return f"ideal {100 * ideal:.1f}% = {formula}, of {of_stages} and {counted(count or 0, 'microbatch', 'microbatches')} ({of}: {source})"


def _slowest(rows: Sequence[Record]) -> Iterator[str]:
    for number in sorted({row["pipeline"] for row in rows})[:NAMED]:
        if (found := slowest_stage([row for row in rows if row["pipeline"] == number])) is not None:
            least, most = found
            of = f" of pipeline {number}" if len({row["pipeline"] for row in rows}) > 1 else ""
            yield (
                f"Slowest stage{of}: {listed(least['stage'])} (rank {least['rank']}), which waits least: {_waited(least)} of a step; "
                f"stage {listed(most['stage'])} (rank {most['rank']}) waits {_waited(most)}"
            )


def _waited(row: Record) -> str:
    return format_ns(round(row["waits_input"] + row["waits_gradient"]))


def _unseen(rows: Sequence[Record]) -> Iterator[str]:
    """Time of which nobody knows what a rank did, as it did not record then."""
    unseen = [row for row in rows if row["unseen"]]
    if unseen:
        most = max(unseen, key=lambda row: row["unseen"])
        who = listed([row["rank"] for row in unseen])
        yield (
            f"Warm-up and Drain: before or after what ranks {who} recorded they are taken to idle, for at most "
            f"{format_ns(round(most['unseen']))} of a step"
            if len(unseen) > 1
            else f"Warm-up and Drain: before or after what rank {who} recorded it is taken to idle, for "
            f"{format_ns(round(most['unseen']))} of a step"
        )


def _pipelines(numbers: Sequence[int]) -> str:
    return f"pipeline {numbers[0]}" if len(numbers) == 1 else f"pipelines {listed(numbers)}"
