"""What ``torchprof run`` says at the end, of the file that it wrote."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np

from torchprof.advice.findings import findings, worth_text
from torchprof.analysis.steps import counts_evaluations, evaluation_steps, step_times, warmup_count
from torchprof.errors import TorchprofError
from torchprof.importers.load import load_trace
from torchprof.rendering.units import format_bytes, format_ns
from torchprof.running.beyond import starts_processes
from torchprof.running.options import RunOptions
from torchprof.running.rank import file_of
from torchprof.running.recording import Outcome
from torchprof.running.spawned import Spawned
from torchprof.tables.by_module import by_module
from torchprof.tables.memory_account import memory
from torchprof.terminal import printable
from torchprof.trace.rank import Rank
from torchprof.trace.schema import Phase
from torchprof.trace.trace import Trace
from torchprof.trace.unfinished import unfinished_kernels, unfinished_text
from torchprof.wording import counted, numbered

__all__ = ["lines_of", "verdict", "why_nothing"]

A_STEP: Final = {
    "optimizer": "a step ends when the optimizer has stepped",
    "forward": "a step is a call of the model: no optimizer stepped",
    "batches": "a step is a batch of a DataLoader",
}
CALLS_AS_ASKED: Final = "a step is a call of the model, as --steps-by forward says"
NEVER: Final = {
    "optimizer": "no optimizer stepped",
    "forward": "no model was called",
    "batches": "no DataLoader was iterated",
}
"""Why no step began, by what a step is."""
NONE_CALLED: Final = "none: no model was called"
NONE_ENDED: Final = "none came to its end{ended}: the recording is one"
ON_ANOTHER_THREAD: Final = "none: the model is called on another thread than the one that imports torch; the recording is one"
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


def verdict(outcome: Outcome, options: RunOptions, rank: Rank | None, spawned: Spawned | None = None) -> list[str]:
    """Some lines: what was recorded, what it took, what is worth a look, and where to look next."""
    if not outcome.is_written:
        others = "; processes that it starts are not: start ranks by torchprof run -- torchrun"
        children = others if starts_processes(spawned) else ""
        return [f"nothing was recorded: {why_nothing(outcome, options)}{children}"]
    if not Path(outcome.file).is_file():  # /dev/null, or a pipe
        return [f"recorded {counted(outcome.steps, 'step')} into {printable(outcome.file)}"]
    trace = load_trace(outcome.file)
    a_step = A_STEP.get(outcome.steps_by, f"a step is a range {outcome.steps_by.removeprefix('range:')!r}")
    if outcome.steps_by == options.steps_by == "forward":
        a_step = CALLS_AS_ASKED
    none = NONE_CALLED if not outcome.models else ON_ANOTHER_THREAD if outcome.is_elsewhere else NONE_ENDED
    said = _said(trace, _steps(trace, a_step, outcome.why, none), "--budget")
    instead = [f"  {'Instead':<9}of {printable(outcome.moved)}"] if outcome.moved else []
    file = outcome.file if outcome.moved else file_of(options.shown, rank, process=options.spawned)
    return [_what(trace, outcome), *instead, *said, _next(file)]


def lines_of(trace: Trace, file: str | None, a_step: str, why: str = "") -> list[str]:
    """The same of a trace that something else recorded.

    Args:
        file: where it was written, if it was.
        a_step: what a step is, as in `A_STEP`.
        why: why it ended before its last step, if it did.
    """
    what = counted(len(trace.steps), "step") if len(trace.steps) else counted(len(trace.ops), "op")
    where = f" into {printable(file)} ({_size(file)})" if file is not None else ""
    said = _said(trace, _steps(trace, a_step, why, NONE_ENDED), "budget=")
    following = [_next(file)] if file is not None and Path(file).is_file() else []
    return [f"torchprof: recorded {what}{where}", *said, *following]


def _said(trace: Trace, steps: Iterator[tuple[str, str]], budget: str) -> list[str]:
    rows = [
        *_models(trace),
        *steps,
        *_times(trace),
        *_memory(trace),
        *_hottest(trace),
        *_advice(trace),
        *_lost(trace, budget),
        *(("Missing", each) for each in trace.facts.get("run_notes", ()) if not each.startswith("steps: ")),  # said above
    ]
    return [f"  {name:<9}{printable(text)}" for name, text in rows]


def _size(path: str) -> str:
    try:
        return format_bytes(Path(path).stat().st_size)
    except OSError:  # somebody took it away meanwhile
        return "no longer there"


def _next(path: str) -> str:
    file = printable(shlex.quote(path))
    return f"  {'Next':<9}torchprof show {file}, torchprof findings {file}, torchprof report {file} -o report.html"


def why_nothing(outcome: Outcome, options: RunOptions) -> str:
    """Why there is no file, in some words."""
    return printable(outcome.why or _why_no_step(outcome, options))


def _why_no_step(outcome: Outcome, options: RunOptions) -> str:
    by = options.steps_by
    if not outcome.has_begun and by != "auto":
        if outcome.is_elsewhere and by in ("optimizer", "forward"):
            return "the model is called on another thread than the one that imports torch"
        return NEVER.get(by) or f"no record_function({by.removeprefix('range:')!r}) was entered"
    if options.first:
        return f"the program ended after {counted(outcome.steps, 'step')}, and --steps begins with step {options.first}"
    return "no step came to its end"


def _what(trace: Trace, outcome: Outcome) -> str:
    steps = f"{len(trace.steps):,} of {counted(outcome.steps, 'step')}" if len(trace.steps) else counted(len(trace.ops), "op")
    size = _size(outcome.file)
    ranks = f"; so did each of the {trace.facts['world_size']} ranks" if "world_size" in trace.facts else ""
    return f"recorded {steps} into {printable(outcome.file)} ({size}){ranks}"


def _models(trace: Trace) -> Iterator[tuple[str, str]]:
    roots = [info for info in (trace.model.modules if trace.model is not None else ()) if info.parent < 0]
    if roots:
        named = ", ".join(info.type if info.name == info.type else f"{info.name} ({info.type})" for info in roots[:MODELS])
        more = f" and {len(roots) - MODELS} more" if len(roots) > MODELS else ""
        yield "Model" if len(roots) == 1 else "Models", named + more


def _steps(trace: Trace, a_step: str, why: str, none: str) -> Iterator[tuple[str, str]]:
    recorded = trace.steps["number"]
    if not len(recorded):
        ended = f" ({trace.facts['ended_by']} ended it)" if "ended_by" in trace.facts else ""
        yield "Steps", none.format(ended=ended)
        return
    said = f"{recorded[0]}" if len(recorded) == 1 else f"{recorded[0]} to {recorded[-1]}"
    evaluated = evaluation_steps(trace)
    if warmup := warmup_count(trace):
        said += ", the first as warm-up" if warmup == 1 else f", the first {warmup} as warm-up"
    yield "Steps", f"{said}; {a_step}"
    if not warmup and recorded[0] == 0:
        yield "", "step 0 is the program's first: it includes what runs once, such as compiling and first allocations"
    if evaluated:
        counts = "they count in what follows" if counts_evaluations(trace) else "left out of what follows"
        yield "", f"{numbered(evaluated, 'step')} also {'evaluates' if len(evaluated) == 1 else 'evaluate'} a model: {counts}"
    if why:
        yield "Ended", why
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


def _advice(trace: Trace) -> Iterator[tuple[str, str]]:
    found = findings(trace)
    if not found:
        yield "Findings", "none"
        return
    top = found.found[0]
    worth = f" (worth {worth_text(top.worth)})" if top.worth is not None else ""
    yield "Findings", f"{len(found)}; the first: {top.what}{worth}"


def _lost(trace: Trace, option: str) -> Iterator[tuple[str, str]]:
    unfinished = unfinished_kernels(trace)
    losses = {**trace.losses, "kernels": trace.losses.get("kernels", 0) - unfinished}
    if lost := ", ".join(f"{count:,} {table.replace('_', ' ')}" for table, count in losses.items() if count):
        yield "Lost", f"{lost}: they did not fit the budget of {trace.facts['budget'] / 2**20:,.0f} MiB ({option})"
    if unfinished:
        yield "Lost", unfinished_text(unfinished)
