"""What ``torchprof run`` says at the end, of the file that it wrote."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np

from torchprof.advice.findings import findings, worth_text
from torchprof.analysis.steps import evaluation_steps, step_times, warmup_count
from torchprof.errors import TorchprofError
from torchprof.importers.load import load
from torchprof.rendering.units import format_bytes, format_ns
from torchprof.running.options import RunOptions
from torchprof.running.rank import Rank, file_of
from torchprof.running.recording import Outcome
from torchprof.tables.by_module import by_module
from torchprof.tables.memory_account import memory
from torchprof.terminal import printable
from torchprof.trace.schema import Phase
from torchprof.trace.trace import Trace
from torchprof.wording import counted, numbered

__all__ = ["verdict"]

A_STEP: Final = {
    "optimizer": "a step ends when the optimizer has stepped",
    "forward": "a step is a call of the model: no optimizer stepped",
    "batches": "a step is a batch of a DataLoader",
}
MODELS: Final = 5
"""How many are named."""
PHASES: Final = {
    Phase.FORWARD: "forward",
    Phase.RECOMPUTATION: "recomputation",
    Phase.BACKWARD: "backward",
    Phase.OPTIMIZER: "optimizer",
    Phase.DATA: "data",
    Phase.OTHER: "other",
}


def verdict(outcome: Outcome, options: RunOptions, rank: Rank | None) -> list[str]:
    """Some lines: what was recorded, what it took, what is worth a look, and where to look next."""
    if not outcome.is_written:
        return [f"nothing was recorded: {printable(outcome.why or _why_nothing(outcome, options))}"]
    trace = load(outcome.file)
    file = printable(shlex.quote(file_of(options.shown, rank)))
    rows = [
        *_models(trace),
        *_steps(trace, outcome),
        *_times(trace),
        *_memory(trace),
        *_hottest(trace),
        *_advice(trace, file),
        *_lost(trace, options),
    ]
    return [
        _what(trace, outcome),
        *(f"  {name:<9}{printable(text)}" for name, text in rows),
        f"  {'Next':<9}torchprof show {file}, torchprof findings {file}, torchprof report {file} -o report.html",
    ]


def _why_nothing(outcome: Outcome, options: RunOptions) -> str:
    if options.first:
        return f"the program ended after {counted(outcome.steps, 'step')}, and --steps begins with step {options.first}"
    return "no step came to its end"


def _what(trace: Trace, outcome: Outcome) -> str:
    steps = f"{len(trace.steps):,} of {counted(outcome.steps, 'step')}" if len(trace.steps) else counted(len(trace.ops), "op")
    size = format_bytes(Path(outcome.file).stat().st_size)
    ranks = f"; so did each of the {trace.facts['world_size']} ranks" if "world_size" in trace.facts else ""
    return f"recorded {steps} into {printable(outcome.file)} ({size}){ranks}"


def _models(trace: Trace) -> Iterator[tuple[str, str]]:
    roots = [info for info in (trace.model.modules if trace.model is not None else ()) if info.parent < 0]
    if roots:
        named = ", ".join(info.type if info.name == info.type else f"{info.name} ({info.type})" for info in roots[:MODELS])
        more = f" and {len(roots) - MODELS} more" if len(roots) > MODELS else ""
        yield "Model" if len(roots) == 1 else "Models", named + more


def _steps(trace: Trace, outcome: Outcome) -> Iterator[tuple[str, str]]:
    recorded = trace.steps["number"]
    if not len(recorded):
        ended = f" ({trace.facts['ended_by']} ended it)" if "ended_by" in trace.facts else ""
        yield "Steps", f"none came to its end{ended}: the recording is one" if outcome.models else "none: no model was called"
        return
    said = f"{recorded[0]}" if len(recorded) == 1 else f"{recorded[0]} to {recorded[-1]}"
    evaluated = evaluation_steps(trace)
    if warmup := warmup_count(trace):
        said += ", the first as warm-up" if warmup == 1 else f", the first {warmup} as warm-up"
    of = A_STEP.get(outcome.steps_by, f"a step is a range {outcome.steps_by.removeprefix('range:')!r}")
    yield "Steps", f"{said}; {of}"
    if not warmup and recorded[0] == 0:
        yield "", "step 0 is the program's first: it includes what runs once, such as compiling and first allocations"
    if evaluated:
        counts = "they count in what follows" if trace.facts.get("aggregate") else "left out of what follows"
        yield "", f"{numbered(evaluated, 'step')} also {'evaluates' if len(evaluated) == 1 else 'evaluate'} a model: {counts}"
    if outcome.why:
        yield "Ended", outcome.why
    elif "ended_by" in trace.facts:
        yield "Ended", f"by {trace.facts['ended_by']}"


def _times(trace: Trace) -> Iterator[tuple[str, str]]:
    times = step_times(trace)
    if times is None or not len(times.time) or not (whole := int(times.time.sum())):
        return
    parts = {name: int(times.by_phase[phase].sum()) / whole for phase, name in PHASES.items()}
    shares = ", ".join(f"{name} {share:.0%}" for name, share in parts.items() if share >= 0.005)
    mean = format_ns(round(float(np.mean(times.time))))
    yield ("Step", f"{mean} on average: {shares}") if times.is_step else ("Time", f"{mean}: {shares}")


def _memory(trace: Trace) -> Iterator[tuple[str, str]]:
    try:
        account = memory(trace)
    except TorchprofError:  # it was not recorded, or of sums only
        return
    parts = sorted(account.by_category.items(), key=lambda part: -part[1])[:3]
    whole = account.peak.bytes
    if whole:
        shares = ", ".join(f"{name} {count / whole:.0%}" for name, count in parts if count)
        yield "Peak", f"{format_bytes(whole)} on {account.device}: {shares}"


def _hottest(trace: Trace) -> Iterator[tuple[str, str]]:
    if trace.model is None:
        return
    try:
        rows = by_module(trace).rows
    except TorchprofError:
        return
    modules = {info.path: info for info in trace.model.modules if info.parent >= 0}
    measured = [row for row in rows if row.get("path") in modules and row.get("self") is not None]
    if not measured:
        return
    hottest = max(measured, key=lambda row: row["self"])
    whole = sum(row["self"] for row in rows if row.get("self") is not None)
    if whole and hottest["self"]:
        yield "Hottest", f"{hottest['path']} ({modules[hottest['path']].type}): {hottest['self'] / whole:.0%} of the time"


def _advice(trace: Trace, file: str) -> Iterator[tuple[str, str]]:
    found = findings(trace)
    if not found:
        yield "Findings", "none"
        return
    top = found.found[0]
    worth = f" (worth {worth_text(top.worth)})" if top.worth is not None else ""
    yield "Findings", f"{len(found)}; the first: {top.what}{worth}"


def _lost(trace: Trace, options: RunOptions) -> Iterator[tuple[str, str]]:
    if trace.losses:
        lost = ", ".join(f"{count:,} {table.replace('_', ' ')}" for table, count in trace.losses.items())
        yield "Lost", f"{lost}: they did not fit the budget of {options.budget / 2**20:,.0f} MiB (--budget)"
