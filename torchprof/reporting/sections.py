"""The sections of the page, in their order: each with its figures and tables, or a sentence that says why it has none."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from torchprof.analysis.gpu.backend import gpu_backend
from torchprof.analysis.memory.categories import CATEGORIES
from torchprof.analysis.memory.devices import devices_by_memory
from torchprof.analysis.model.flops import counts_flops
from torchprof.analysis.time.module_records import DATA, OTHER
from torchprof.errors import ArgumentError
from torchprof.rendering.grid import Grid
from torchprof.rendering.units import format_bytes
from torchprof.reporting.figure import CAUSE_COLORS, PHASE_COLORS, category_color
from torchprof.reporting.gpu_chart import gpu_chart
from torchprof.reporting.icicle import icicle
from torchprof.reporting.memory_chart import memory_chart
from torchprof.reporting.module_tree import module_table
from torchprof.reporting.roofline_chart import roofline_chart
from torchprof.reporting.section import Section
from torchprof.reporting.steps_chart import steps_chart
from torchprof.reporting.tables_of import MOST_ROWS
from torchprof.reporting.verdict import of_devices, of_memory, of_steps
from torchprof.tables.by_kernel import by_kernel
from torchprof.tables.by_line import by_line
from torchprof.tables.by_op import by_op
from torchprof.tables.by_step import by_step
from torchprof.tables.footer import remarks
from torchprof.tables.gpu import Gpu, gpu
from torchprof.tables.memory import Memory
from torchprof.tables.table import Table
from torchprof.trace.ceilings import Ceilings
from torchprof.trace.trace import Trace
from torchprof.wording import counted

__all__ = ["sections_of"]


MOST_DEVICES: Final = 8
"""Devices whose memory is drawn."""
LEAST: Final = 0.01
"""Part of the peak of the first device, below which the memory of another is not drawn."""


def sections_of(trace: Trace, ceilings: Ceilings | None) -> Iterator[Section]:
    """All that have something to say."""
    account = _account(trace)
    yield _modules(trace, account if isinstance(account, Memory) else None, ceilings)
    yield _memory(trace, account)
    if isinstance(account, Memory):
        yield from _other_devices(trace, account)
    yield _steps(trace)
    yield from _gpu(trace, ceilings)
    yield _lines(trace)
    yield _ops(trace, ceilings)
    yield from _kernels(trace)
    yield _roofline(trace, ceilings)


def _account(trace: Trace) -> Memory | str:
    """The account of memory, or why there is none."""
    try:
        return Memory.of(trace)
    except ArgumentError as error:
        return str(error)


def _modules(trace: Trace, account: Memory | None, ceilings: Ceilings | None) -> Section:
    section = Section("modules", "Modules", remarks(trace))
    table = module_table(trace, account, ceilings)
    if not len(table):
        section.lead.append("No module was called while it was recorded, and no op ran.")
        return section
    section.add_table("modules", table)
    section.color_rows("modules", {DATA: PHASE_COLORS["data"], OTHER: PHASE_COLORS["other"]})
    if any(row["depth"] for row in table.rows):
        section.tree = icicle(table)
        section.parts.append(("icicle", "icicle"))
    return section


def _memory(trace: Trace, account: Memory | str) -> Section:
    section = Section("memory", "Memory", remarks(trace))
    if isinstance(account, str):
        section.lead.append(_sentence(account))
        return section
    if not len(account.allocations) and not account.peak.bytes:
        section.lead.append(f"Nothing was allocated on {account.device}.")
        return section
    section.sentences += of_memory(account)
    lines = [part for part in account.parts() if isinstance(part, str)]
    section.lead.append(lines[0])
    figure, said = memory_chart(account)
    section.add_figure("memory", figure, *said)
    section.headings["memory"] = f"Held on {account.device} over time"
    section.add_table("peak", account.categories, "At the peak, by category")
    section.color_rows("peak", {name: category_color(name) for name in CATEGORIES})
    if account.leaks:
        section.add_table("leaks", account.leak_table, "Leaks: these held more and more at the ends of steps")
    section.add_table("peak_modules", account.modules, "At the peak, by module")
    section.add_table("peak_lines", account.peak_lines, "At the peak, by line")
    section.notes += [line for line in lines[1:] if not line.startswith("Leaks: these") and line not in section.said]
    return section


def _other_devices(trace: Trace, first: Memory) -> Iterator[Section]:
    """The memory of the devices beside the first one; of those that held little, in words."""
    section = Section("other_memory", "Other devices", remarks(trace))
    for number, device in enumerate(devices_by_memory(trace)[1:MOST_DEVICES], 1):
        account = Memory.of(trace, device)
        if account.peak.bytes < LEAST * first.peak.bytes:
            section.notes.append(f"On {device}, at most {format_bytes(account.peak.bytes)} were held")
            continue
        figure, said = memory_chart(account)
        section.add_figure(f"memory_{number}", figure, *said)
        section.headings[f"memory_{number}"] = f"Held on {device} over time"
        section.add_table(f"peak_{number}", account.categories, f"At the peak of {device}, by category")
        section.color_rows(f"peak_{number}", {name: category_color(name) for name in CATEGORIES})
    if section.parts:
        yield section


def _steps(trace: Trace) -> Section:
    section = Section("steps", "Steps", remarks(trace), list(of_steps(trace)))
    try:
        table = by_step(trace)
    except ArgumentError as error:
        section.lead.append(_sentence(str(error)))
        return section
    figure, said = steps_chart(table)
    section.add_figure("steps", figure, *said)
    section.add_table("steps", _slowest(table))
    return section


def _slowest(table: Table) -> Table:
    """The table without its fastest steps, where it has too many."""
    if len(table) <= MOST_ROWS:
        return table
    slowest = sorted(range(len(table)), key=lambda at: -table.rows[at]["time"])[:MOST_ROWS]
    left = f"{counted(len(table) - MOST_ROWS, 'faster step')} left out"
    return replace(table, rows=[table.rows[at] for at in sorted(slowest)], footer=(left, *table.footer))


def _gpu(trace: Trace, ceilings: Ceilings | None) -> Iterator[Section]:
    if gpu_backend(trace) == "off":
        return
    section = Section("gpu", "GPU", remarks(trace))
    yield section
    try:
        account = gpu(trace, ceilings=ceilings)
    except ArgumentError as error:
        section.lead.append(_sentence(str(error)))
        return
    headline, *below = (part for part in account.parts() if not isinstance(part, Grid))
    section.lead.append(str(headline))
    if not account.devices:
        section.notes += [line for line in map(str, below) if line not in section.said]
        return
    section.sentences += of_devices(account)
    section.add_figure("gpu", gpu_chart(account))
    _gpu_tables(section, account)
    section.notes += [line for line in map(str, below) if line not in section.said]


def _gpu_tables(section: Section, account: Gpu) -> None:
    section.add_table("devices", account.by_device, "Busy and idle")
    section.add_table("causes", account.by_cause, "Why it was idle")
    section.color_rows("causes", CAUSE_COLORS)
    section.add_table("copies", account.by_copy, "Copies")
    section.add_table("waits", account.by_wait, "Where the host waited")
    section.add_table("launches", account.by_launches, "Modules that launch slower than their kernels run")


def _lines(trace: Trace) -> Section:
    section = Section("lines", "Lines", remarks(trace))
    try:
        table = by_line(trace)
    except ArgumentError as error:
        section.lead.append(_sentence(str(error)))
        return section
    if "source" in table.columns:  # beside the name, where it is read
        table = table.select("source", *(name for name in table.columns if name != "source"))
    section.add_table("lines", table)
    if not len(table):
        section.lead.append("No line ran while it was recorded.")
    return section


def _ops(trace: Trace, ceilings: Ceilings | None) -> Section:
    section = Section("ops", "Ops", remarks(trace))
    table = by_op(trace, ceilings=ceilings)
    section.add_table("ops", table)
    if not len(table):
        section.lead += [_sentence(line) for line in table.footer if isinstance(line, str)][-1:]
    return section


def _kernels(trace: Trace) -> Iterator[Section]:
    if gpu_backend(trace) == "off":
        return
    section = Section("kernels", "Kernels", remarks(trace))
    section.add_table("kernels", by_kernel(trace))
    if section.tables:
        yield section


def _roofline(trace: Trace, ceilings: Ceilings | None) -> Section:
    section = Section("roofline", "Roofline", remarks(trace))
    figure = roofline_chart(by_op(trace, shapes=True, ceilings=ceilings), ceilings)
    if figure is None:
        how = "record_shapes=True" if "source" in trace.facts else "shapes=True"
        why = "no op with a FLOP formula ran" if counts_flops(trace) else f"no shapes were recorded: record with {how}"
        section.lead.append(f"No rates are known: {why}.")
        return section
    of_circles = "A circle is an op with inputs of some shapes; its area is the time that it took in a step"
    section.add_figure("roofline", figure, of_circles)
    if ceilings is None:
        section.lead.append(
            "What the device could do is not drawn, as it was not given: torchprof report --ceilings H100-80GB:bf16, or "
            "ceilings= in Python."
        )
    return section


def _sentence(text: str) -> str:
    """What an error says of an argument, as a sentence for a reader."""
    text = f"The {text}" if text.startswith("trace ") else text[:1].upper() + text[1:]
    return text if text.endswith((".", "?", "!")) else f"{text}."
