"""The page of the ranks of a run: each of them, who came late and why, modules, collectives, and how evenly work is divided."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torchprof.analysis.distributed.balance_records import mesh_dimensions
from torchprof.analysis.distributed.straggler_records import step_time
from torchprof.errors import ArgumentError
from torchprof.rendering.units import format_ns
from torchprof.reporting.ranks_chart import ranks_chart
from torchprof.reporting.section import Section
from torchprof.reporting.verdict import Sentence
from torchprof.tables.across_ranks import of_ranks
from torchprof.tables.bubbles import bubbles
from torchprof.tables.by_collective import by_collective
from torchprof.tables.by_module import by_module
from torchprof.tables.by_rank import by_rank
from torchprof.tables.clocks import clock_lines, clocks
from torchprof.tables.imbalance import imbalance
from torchprof.tables.overlap import overlap
from torchprof.tables.stragglers import stragglers
from torchprof.tables.table import Table
from torchprof.trace.ranks import Ranks
from torchprof.wording import counted

__all__ = ["rank_sections", "said_of_ranks"]


def said_of_ranks(ranks: Ranks) -> list[str]:
    """The lines that stand on top of the page, and below none of its tables."""
    return [*of_ranks(ranks), *clock_lines(ranks)]


def rank_sections(ranks: Ranks) -> Iterator[Section]:
    """All that is said of several ranks."""
    said = said_of_ranks(ranks)
    yield _ranks(ranks, said)
    yield _stragglers(ranks, said)
    modules = Section("modules", "Modules", said)
    modules.add_table("modules", by_module(ranks))
    if not modules.parts:
        modules.lead.append("No module was called while it was recorded, and no op ran.")
    yield modules
    yield _of_table("collectives", "Collectives", said, lambda: by_collective(ranks), "No collective was asked for.")
    yield _of_table("overlap", "Overlap", said, lambda: overlap(ranks), "")
    yield _imbalance(ranks, said)
    yield from _bubbles(ranks, said)
    clock_section = Section("clocks", "Clocks", said)
    clock_section.add_table("clocks", clocks(ranks))
    yield clock_section


def _ranks(ranks: Ranks, said: list[str]) -> Section:
    section, table = Section("ranks", "Ranks", said), by_rank(ranks)
    if step := step_time(ranks):
        rest = f", the mean of {counted(len(ranks), 'rank')}" if len(ranks) > 1 else f" in rank {ranks.numbers[0]}"
        section.sentences.append(Sentence("ranks", "A step takes", format_ns(round(step)), rest))
        figure, captions = ranks_chart(table)
        section.add_figure("ranks", figure, *captions)
    section.add_table("ranks", table)
    return section


def _stragglers(ranks: Ranks, said: list[str]) -> Section:
    section = Section("stragglers", "Stragglers", said)
    try:
        found = stragglers(ranks)
    except ArgumentError as error:
        section.lead.append(_sentence(error))
        return section
    lines = [part for part in found.parts() if isinstance(part, str)]
    if len(found.causes):
        worst = max(found.causes.rows, key=lambda row: row["late"])
        late, error = (sum(row[name] for row in found.causes.rows) for name in ("late", "late_error"))
        off = f" ± {format_ns(round(error))}" if error else ""
        part = "most of that" if 2 * worst["late"] > late else f"{format_ns(round(worst['late']))} of that"
        most = f"; {part} is rank {worst['rank']}, by {worst['phase']}" + (f" of {worst['module']}" if worst["module"] else "")
        section.sentences.append(Sentence("stragglers", "Ranks are late by", format_ns(round(late)), f"{off} of a step{most}"))
    section.lead += [line for line in lines if line not in said and not line.startswith("Left out:")]
    section.add_table("late", found.causes, "Why they came late")
    section.add_table("late_collectives", found.collectives, "To which collectives")
    section.notes += [line for line in lines if line.startswith("Left out:")]
    return section


def _imbalance(ranks: Ranks, said: list[str]) -> Section:
    section = Section("imbalance", "Imbalance", said)
    section.add_table("imbalance", imbalance(ranks), "By rank")
    for number, name in enumerate(mesh_dimensions(ranks)):
        section.add_table(f"imbalance_{number}", imbalance(ranks, dimension=name), f"By place along {name}")
    return section


def _bubbles(ranks: Ranks, said: list[str]) -> Iterator[Section]:
    """Of a pipeline; no section where there is none."""
    try:
        table = bubbles(ranks)
    except ArgumentError:  # the recordings have no single ops: the sections above say so
        return
    if len(table):
        section = Section("bubbles", "Pipeline bubbles", said)
        section.add_table("bubbles", table)
        yield section


def _of_table(name: str, title: str, said: list[str], make: Callable[[], Table], otherwise: str) -> Section:
    """A section of one table, or why there is none."""
    section = Section(name, title, said)
    try:
        section.add_table(name, make())
    except ArgumentError as error:
        section.lead.append(_sentence(error))
        return section
    if not section.parts:
        section.lead.append(otherwise)
    return section


def _sentence(error: ArgumentError) -> str:
    text = str(error).replace("trace=", "The trace ", 1) if str(error).startswith("trace=") else str(error)
    return f"{text}."
