"""What is said below tables: over what figures are means, what kind of time they show, and what is missing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from torchprof.analysis.device_names import on_device
from torchprof.analysis.gpu.backend import gpu_backend, has_kernels
from torchprof.analysis.gpu.kernels import launches_before
from torchprof.analysis.memory.steps import not_recorded
from torchprof.analysis.model.module_tree import SEVERAL_MODULES
from torchprof.analysis.model.unknown_flops import ways_out
from torchprof.analysis.steps import counts_evaluations, evaluation_steps, step_times
from torchprof.rendering.units import format_ns
from torchprof.tables.columns import COLUMNS
from torchprof.tables.table import About
from torchprof.trace.trace import Trace
from torchprof.trace.unfinished import unfinished_kernels, unfinished_text
from torchprof.wording import counted, numbered

__all__ = [
    "coverage",
    "evaluations",
    "footer",
    "incomplete",
    "launched_before_lines",
    "of_file",
    "of_what",
    "ops_not_recorded",
    "remarks",
    "unknown_flops",
]

MOST_NAMED: Final = 6
OTHER_RANGES: Final = "other ranges"
"""The name of user ranges whose sums were merged: see csrc/collate/merged_rows.cpp."""
ROUNDED: Final = 0.0005


def footer(trace: Trace, times: str = "host time", of: str | None = None) -> tuple[str, ...]:
    """The lines below a table of this trace: what its figures are, by default means over steps; and of which time."""
    if of is None:
        active = int((trace.steps["warmup"] == 0).sum())
        whole = "No step but warm-up, which is left out" if len(trace.steps) else "The whole recording"
        of = f"Mean of {active:,} steps" if active > 1 else "One step" if active else whole
    backend = gpu_backend(trace)
    if has_kernels(trace) and times == "host time":
        times = "host time, but for Device and Dev columns: time of kernels"
    lines = [f"{of}; {times}"]
    if backend != "off" and not has_kernels(trace):
        lines.append("Devices were recorded, and did nothing")
    if backend == "events" and trace.facts.get("gpu_note"):
        lines.append(f"Devices were recorded with events: {trace.facts['gpu_note']}")
    return (*lines, *merged_rows(trace), *remarks(trace))


def remarks(trace: Trace) -> list[str]:
    """What must be said of a recording that does not have everything: below every table and account."""
    note = trace.facts.get("memory_note")
    said = [f"Memory: {note}"] if note else []
    said += [f"Not recorded: {each}" for each in trace.facts.get("run_notes", ())]
    return [
        *ended_early(trace),
        *evaluations(trace),
        *said,
        *of_file(trace),
        *incomplete(trace.losses, unfinished_kernels(trace)),
    ]


def evaluations(trace: Trace) -> list[str]:
    """What must be said of steps in which a model was evaluated beside the training."""
    if not (steps := evaluation_steps(trace)):
        return []
    where = "they are in the means" if counts_evaluations(trace) else "left out, as warm-up is"
    return [f"Evaluation: in {numbered(steps, 'step')} a model was also called without gradients or in eval mode; {where}"]


def of_file(trace: Trace) -> list[str]:
    """What must be said of a file of another tool that does not have everything, or not everything of which is read."""
    return [f"Read from {trace.facts.get('source', 'a file')}: {each}" for each in trace.facts.get("notes", ())]


def merged_rows(trace: Trace) -> list[str]:
    """What must be said where there were so many shapes, modules or names that their sums were merged."""
    lines = []
    ops, calls = trace.op_totals, trace.call_totals
    if (count := int(ops["count"][ops["merged"] != 0].sum())) != 0:
        kept = trace.facts.get("shapes_kept", 0)
        beyond = f"further shapes than the first {kept} of an op in a module" if kept > 1 else "many shapes"
        lines.append(
            f"Other shapes: {count:,} of {int(ops['count'].sum()):,} ops ran with {beyond}, and are summed up together"
        )
    of_several = trace.modules["address"][calls["module"]] == SEVERAL_MODULES
    if (count := int(calls["count"][of_several].sum())) != 0:
        made = "of modules that the model does not have and that were not called for long"
        lines.append(f"Other modules: {counted(count, 'call')} {made}, summed up by class and caller")
    if OTHER_RANGES in trace.strings:
        named = trace.signatures["name"][ops["signature"]] == trace.strings.index(OTHER_RANGES)
        if (count := int(ops["count"][named].sum())) != 0:
            lines.append(f"Other ranges: {counted(count, 'range')} with further names than the first, summed up together")
    return lines


def ended_early(trace: Trace) -> list[str]:
    """What must be said where an exception ended the recording."""
    if not (name := trace.facts.get("ended_by")):
        return []
    return [f"{name} ended the recording" + ("; the step that it broke off is left out" if len(trace.steps) else "")]


def of_what(trace: Trace, device: str | None) -> str:
    """What the bytes held by a program are of: all on this device or, for None, what an aggregated recording knows.

    Blocks from before the recording are known by the ops that use them, or by the totals of the allocator of a device.
    """
    if device is None:
        return "Peak and held: of what was allocated since the recording began, on all devices"
    if not_recorded(trace) and not on_device(trace, trace.allocator_totals, device).any():
        allocated = f"of what was allocated on {device} since the recording began"
        return f"Peak and held: {allocated}; of what was there before, of inputs of modules only"
    return f"Peak and held: of all memory on {device}, also what was there before the recording"


def ops_not_recorded(trace: Trace, rest: str) -> list[str]:
    """What must be said where ops, and so phases other than forward, were not recorded.

    Args:
        rest: where their time is.
    """
    missing = trace.facts.get("ops") is False
    return [f"Ops were not recorded: backward, optimizer and waiting for data are in the {rest}"] if missing else []


def coverage(
    trace: Trace, column: str, of: str, time: float, *, of_step: bool = False, of_all: bool = False, how: str = ""
) -> About:
    """What shares are of, and how much of a step the rows of a table cover.

    Args:
        column: the one with the shares.
        of: what all rows together are.
        time: nanoseconds of all rows.
        of_step: whether shares are of the step, not of all rows.
        of_all: whether the time is the sum over all steps, not the mean.
        how: the time is of all that the rows are: ``"at most "``, ``"on average "``.
    """
    header = COLUMNS[column].header
    times = step_times(trace)
    whole = float(times.time.sum() if of_all else times.time.mean()) if times is not None and len(times.time) else 0.0
    if times is None or not whole:
        return About((column,), f"{header}: of {of}")
    several = f"the {len(times.time):,} steps" if of_all else "a step"
    step = several if len(times.time) > 1 else "the step" if times.is_step else "the recording"
    covered = f"{how}{100 * time / whole:.1f}%"
    if not of_step:
        return About((column,), f"{header}: of {of}, {covered} of {step}")
    more = ": threads worked at the same time, or calls went on when a step ended" if time > (1 + ROUNDED) * whole else ""
    return About((column,), f"{header}: of {step}, {format_ns(round(whole))}, of which the rows are {covered}{more}")


def unknown_flops(names: Iterable[str], trace: Trace | None) -> list[str]:
    """What must be said of ops of a trace that may have FLOPs of which nobody knows how many."""
    listed = sorted(set(names))
    if not listed:
        return []
    shown = ", ".join(listed[:MOST_NAMED]) + (f" and {len(listed) - MOST_NAMED} more" if len(listed) > MOST_NAMED else "")
    return [f"Unknown FLOPs (? and >=): of {shown}", *ways_out(listed, trace)]


def launched_before_lines(trace: Trace) -> list[str]:
    """What must be said of kernels that were launched before the recording began."""
    count = launches_before(trace)
    which = counted(count, "kernel was", "kernels were")
    return [f"{which} launched before the recording began: of no step"] if count else []


def incomplete(losses: Mapping[str, int], unfinished: int = 0) -> list[str]:
    """What must be said of rows that are not in a recording.

    Args:
        unfinished: how many of the kernels had not ended when the recording did: see `unfinished_kernels`.
    """
    why = {
        "kernels": "did not fit the budget, or the device's own buffers, or had not ended when the recording did",
        "operands": "did not fit the budget, or one row of an op or a module call",
    }
    rest = {table: count - (unfinished if table == "kernels" else 0) for table, count in losses.items()}
    lines = [
        f"INCOMPLETE: {counted(count, *_nouns(table))} {why.get(table, 'did not fit the budget')}; figures above miss them"
        for table, count in rest.items()
        if count and table != "stacks"
    ]
    if unfinished:
        lines += [f"INCOMPLETE: {unfinished_text(unfinished)}; figures above miss {'it' if unfinished == 1 else 'them'}"]
    if rest.get("stacks"):
        which = f"{rest['stacks']:,} ops, module calls and allocations"
        lines += [f"INCOMPLETE: there was no room for the stacks of {which}, which have no line"]
    return lines


def _nouns(table: str) -> tuple[str, str]:
    """A table's rows, one and several: ``module_calls`` are ``module call`` and ``module calls``."""
    several = table.replace("_", " ")
    return several.removesuffix("s"), several
