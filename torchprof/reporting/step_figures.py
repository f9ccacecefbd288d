"""`torchprof.figures`: what a step cost, as numbers under names that stay the same."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import isfinite
from typing import Any, Final

import numpy as np

from torchprof.advice.findings import findings
from torchprof.analysis.gpu.backend import gpu_backend, has_kernels
from torchprof.analysis.memory.account import MemoryAccount
from torchprof.analysis.memory.steps import not_recorded
from torchprof.analysis.model.flops import counts_flops
from torchprof.analysis.records import Record
from torchprof.analysis.steps import PHASE_COLUMNS, active_steps, how_to_mark_steps, step_times
from torchprof.analysis.time.step_records import step_records
from torchprof.analysis.time.totals import StepTotals, step_totals
from torchprof.arguments import is_integral
from torchprof.errors import ArgumentError
from torchprof.tables.checks import check_ceilings, check_trace
from torchprof.tables.gpu import Gpu, gpu
from torchprof.trace.ceilings import Ceilings
from torchprof.trace.schema import Phase
from torchprof.trace.trace import Trace
from torchprof.wording import counted, shown

__all__ = ["FIGURES", "figures"]

MS: Final = 1e6
"""Nanoseconds of a millisecond."""
PHASES: Final = {**PHASE_COLUMNS, "other": Phase.OTHER}

FIGURES: Final[dict[str, str]] = {
    "steps": "how many steps the others are of; 0 where none was marked, and they are of the whole recording",
    "time_ms": "host time of a step",
    "forward_ms": "of it, in modules and the loss",
    "recompute_ms": "of it, in forward that activation checkpointing runs again",
    "backward_ms": "of it, in backward",
    "optimizer_ms": "of it, in the optimizer",
    "data_ms": "of it, waiting for data",
    "other_ms": "what is left of it",
    "ops": "ops that a step ran, those inside others included",
    "flops": "FLOPs of a step, of all phases; all are known",
    "flops_at_least": "in place of `flops`, where some ops have FLOPs of which nobody knows how many",
    "mfu": "model FLOPs utilization, 0 to 1, as `torchprof.gpu` defines it; on the CPU against the time of the steps",
    "mfu_at_least": "in place of `mfu`, where FLOPs of some ops are unknown, or kernels ran in CUDA graphs",
    "peak_bytes": "the most memory held during the steps, on the device of `torchprof.memory`, from before the recording too",
    "held_bytes": "the same at the end of the last step",
    "peak_recorded_bytes": "in place of `peak_bytes`, where what was allocated before the recording is not known",
    "held_recorded_bytes": "in place of `held_bytes`, likewise",
    "allocated_bytes": "allocated in a step, freed since or not",
    "reserved_bytes": "the most that the device's caching allocator had reserved since the recording began",
    "saved_bytes": "activations kept for backward, when these were most since the recording began",
    "leaked_bytes": "by how much more is held after every step",
    "kernels": "kernels, copies and memsets that a step launched on devices",
    "gpu_busy_ms": "time of a step in which any device worked",
    "gpu_busy_share": "part of the devices' time in which they worked, 0 to 1",
    "gpu_idle_share": "the rest of it; the next four add up to it",
    "gpu_idle_launch_bound_share": "of it, waiting for the host to launch",
    "gpu_idle_data_share": "of it, while the host waited for data",
    "gpu_idle_synchronization_share": "of it, after the host had waited for a device",
    "gpu_idle_other_share": "of it, for other reasons",
    "findings": "how many findings `torchprof.findings` has, by the rules that could tell",
    "lost_rows": "rows that the recording had no room for; what these would tell is unknown",
    "rank": "the rank that recorded it, where there are several",
}
"""The figures by name, and what each is. A change of a name breaks the charts of people: add, and do not rename."""


@dataclass(frozen=True, slots=True)
class _Of:
    """What the figures are of.

    Attributes:
        trace: one whose active steps are those that count.
        chosen: whether a step was chosen: then what is of the whole recording is no figure of it.
    """

    trace: Trace
    chosen: bool

    @property
    def has_totals(self) -> bool:
        """Whether sums of ops and kernels are of these steps. An aggregated trace keeps those over all steps."""
        return not (self.chosen and self.trace.facts.get("aggregate"))

    def lost(self, *tables: str) -> bool:
        """Whether rows of any of these tables were lost."""
        return any(self.trace.losses.get(table) for table in tables)


def figures(trace: Trace, *, of_step: int | None = None, ceilings: Ceilings | None = None) -> dict[str, float]:
    """What a step cost, as numbers under names that stay the same: for a tracker, a log, a test or a table of your own.

    They are means over the active steps, as in every table; of memory the most in any. Names end in their unit (``_ms``,
    ``_bytes``, ``_share``, from 0 to 1); counts have none. What is not known is left out, and is never 0.

    Args:
        trace: of `torchprof.profile` or `torchprof.load`, also one recorded with ``aggregate=True``. Without steps, the whole
            recording counts as one.
        of_step: the number of one step, as in `torchprof.by_step`, also of a warm-up step: only what is known of that step.
        ceilings: of `torchprof.ceilings`, measured on the machine that the trace is of: adds the utilization (MFU).

    Returns:
        The figures by name, in the order of the table in the documentation.

    Raises:
        ModuleTypeError: this is no trace.
        ArgumentError: the trace has no such step, or has none but warm-up; or the ceilings are a CPU's where a device did the
            work.

    Example:
        >>> torchprof.figures(prof.trace)["backward_ms"]
        >>> {f"train/{name}": value for name, value in torchprof.figures(prof.trace).items()}
    """
    check_trace(trace)
    if ceilings is not None:
        check_ceilings(ceilings, of_device=has_kernels(trace))
    of = _chosen(trace, of_step)
    found = dict(_all(of, ceilings))
    return {name: found[name] for name in FIGURES if found.get(name) is not None and isfinite(found[name])}


def _chosen(trace: Trace, number: int | None) -> _Of:
    """The trace, or the same with all steps but one marked as warm-up."""
    steps = trace.steps
    if number is None:
        if len(steps) and not len(active_steps(trace)):
            raise ArgumentError(
                f"trace has {counted(len(steps), 'step')}, all of them warm-up, which is left out: record active steps, or "
                f"choose one with of_step={int(steps['number'][-1])}"
            )
        return _Of(trace, False)
    if not len(steps):
        raise ArgumentError(f"of_step={shown(number)}: the trace has no steps: {how_to_mark_steps(trace)}")
    rows = np.flatnonzero(steps["number"] == number) if is_integral(number) else ()
    if not len(rows):
        numbers = steps["number"].tolist()
        has = f"{numbers[0]} to {numbers[-1]}" if len(numbers) > 1 else f"{numbers[0]}"
        raise ArgumentError(f"of_step={shown(number)} is no step of the trace, which has {has}: see torchprof.by_step(trace)")
    only = steps.copy()
    only["warmup"] = 1
    only["warmup"][rows] = 0
    return _Of(replace(trace, steps=only), True)


def _all(of: _Of, ceilings: Ceilings | None) -> Iterator[tuple[str, Any]]:
    trace = of.trace
    yield "steps", len(active_steps(trace))
    yield "lost_rows", sum(trace.losses.values())
    rank = trace.facts.get("rank", (trace.facts.get("distributed") or {}).get("rank"))
    if is_integral(rank):
        yield "rank", rank
    records = [] if trace.facts.get("aggregate") else [record for record in step_records(trace) if not record["warmup"]]
    yield from _times(of, records)
    yield from _work(of, records)
    yield from _memory(of)
    yield from _devices(of, ceilings)
    if not of.chosen and (found := findings(trace)).looked_for:
        yield "findings", len(found)


def _times(of: _Of, records: list[Record]) -> Iterator[tuple[str, Any]]:
    """The time of a step, and of it, of each phase."""
    times = step_times(of.trace)
    if times is None:
        return
    yield "time_ms", float(times.time.mean()) / MS
    if of.trace.facts.get("ops") is False:
        return  # backward, the optimizer and waiting for data are in the rest of the step
    if records:
        yield from ((f"{name}_ms", _mean(records, name, MS)) for name in PHASES)
    elif not of.lost("ops", "module_calls"):
        yield from ((f"{name}_ms", float(times.by_phase[phase].mean()) / MS) for name, phase in PHASES.items())


def _work(of: _Of, records: list[Record]) -> Iterator[tuple[str, Any]]:
    """Ops and their FLOPs."""
    if not of.has_totals or of.trace.facts.get("ops") is False:
        return
    if records:
        flops = _mean(records, "flops")
        unknown = any(record["flops_unknown"] for record in records)
        yield "ops", _mean(records, "ops")
    elif of.lost("ops"):
        return
    else:
        totals = step_totals(of.trace)
        unknown = bool(totals.op_unknown.any())
        total = int(totals.op_flops.sum())
        flops = total / totals.steps if total or not unknown else None
        yield "ops", int(totals.ops["count"].sum()) / totals.steps
    if counts_flops(of.trace):
        yield "flops_at_least" if unknown else "flops", flops


def _mean(records: list[Record], name: str, unit: float = 1) -> float | None:
    """Over steps; None where it is not known of one of them."""
    values = [record[name] for record in records]
    return None if None in values else float(np.mean(values)) / unit


def _memory(of: _Of) -> Iterator[tuple[str, Any]]:
    """What was held during the steps, and what was allocated in them."""
    trace, steps = of.trace, of.trace.steps
    if not trace.facts.get("memory") or of.lost("allocations"):
        return
    if trace.facts.get("aggregate"):
        active = active_steps(trace)
        if len(active):
            yield "peak_recorded_bytes", int(active["peak"].max())
            yield "held_recorded_bytes", int(active["held"][-1])
            yield "allocated_bytes", float(active["allocated"].mean())
        return
    account = MemoryAccount.of(trace)
    of_what = "bytes" if not not_recorded(trace) or len(account.totals) else "recorded_bytes"
    if len(steps):
        active = steps["warmup"] == 0
        yield f"peak_{of_what}", int(account.steps.peak[active].max())
        yield f"held_{of_what}", int(account.steps.held[active][-1])
        yield "allocated_bytes", float(account.steps.allocated[active].mean())
    else:
        yield f"peak_{of_what}", account.peak.bytes
        recorded = account.allocations["start"] >= 0
        yield "allocated_bytes", int(account.allocations["bytes"][recorded].sum())
    if not of.chosen:
        yield "reserved_bytes", account.max_reserved
        if account.saved_unknown is None:
            yield "saved_bytes", sum(account.saved_by_module.values())
        if account.leaks_unknown is None:
            yield "leaked_bytes", sum(leak.growth for leak in account.leaks)


def _devices(of: _Of, ceilings: Ceilings | None) -> Iterator[tuple[str, Any]]:
    """How busy devices were, and the utilization of what did the work."""
    trace, backend = of.trace, gpu_backend(of.trace)
    aggregated = bool(trace.facts.get("aggregate"))
    # Intervals between events are no kernels, and have gaps in them.
    if backend not in ("off", "events") and not of.lost("kernels"):
        if len(trace.steps):
            yield "kernels", float(active_steps(trace)["kernels"].mean())
            yield "gpu_busy_ms", float(active_steps(trace)["busy"].mean()) / MS
        else:
            yield "kernels", int(step_totals(trace).kernels["count"].sum())
        if not aggregated:
            yield from _idle(gpu(trace), causes=not of.lost("runtime_calls"))
    if ceilings is not None and not aggregated and counts_flops(trace) and not of.lost("ops", "kernels"):
        yield from _on_device(gpu(trace, ceilings=ceilings)) if backend != "off" else _on_cpu(of, ceilings)


def _idle(account: Gpu, *, causes: bool) -> Iterator[tuple[str, Any]]:
    span = sum(device.span for device in account.devices)
    if not span:
        return
    busy = sum(device.busy for device in account.devices) / span
    yield "gpu_busy_share", busy
    yield "gpu_idle_share", 1 - busy
    for cause in account.devices[0].idle if causes else ():
        idle = sum(device.idle[cause] for device in account.devices)
        yield f"gpu_idle_{cause.replace('-', '_')}_share", idle / span


def _on_device(account: Gpu) -> Iterator[tuple[str, Any]]:
    found = account.utilization
    if found is not None and found.mfu:  # without FLOPs or a span it is 0
        yield "mfu_at_least" if found.unknown or account.graphs.kernels else "mfu", found.mfu


def _on_cpu(of: _Of, ceilings: Ceilings) -> Iterator[tuple[str, Any]]:
    """Against the time of the steps, in which the CPU computes and does all else. None where a device may have computed."""
    times = step_times(of.trace)
    if times is None or not ceilings.threads:
        return
    totals = step_totals(of.trace)
    possible = float(times.time.sum()) * 1e-9 * ceilings.flops
    if possible and (mfu := _model_flops(totals) / possible):
        yield "mfu_at_least" if totals.op_unknown.any() else "mfu", mfu


def _model_flops(totals: StepTotals) -> int:
    """Without what recomputes forward inside backward."""
    return int(totals.op_flops[totals.ops["phase"] != Phase.RECOMPUTATION].sum())
