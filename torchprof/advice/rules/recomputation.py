"""What recomputing activations costs, and what it saves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from torchprof.advice.device_loop import DeviceLoop, device_loop_of
from torchprof.advice.finding import Finding
from torchprof.advice.loop import Loop, loop_of
from torchprof.advice.memory_accounts import memory_accounts
from torchprof.advice.op_sums import lines_of, op_sums
from torchprof.advice.registry import NotTold, rule
from torchprof.analysis.gpu.backend import has_kernels
from torchprof.analysis.lines.where import most_first
from torchprof.analysis.memory.account import MemoryAccount
from torchprof.analysis.memory.categories import CATEGORIES
from torchprof.analysis.memory.changes import Changes
from torchprof.analysis.model.callers import is_recomputed
from torchprof.analysis.model.kinds import kind_of
from torchprof.analysis.model.module_tree import paths
from torchprof.analysis.spans import durations
from torchprof.analysis.steps import active_steps, step_of, step_times
from torchprof.analysis.time.totals import step_totals
from torchprof.rendering.units import format_bytes, format_ns
from torchprof.trace.schema import Phase, phases
from torchprof.trace.trace import Trace

__all__ = ["recomputation"]

LEAST: Final = 0.05
"""Part of the time of a step. All checkpointing has its price, for which memory was bought: a small one is no matter."""

Ints = npt.NDArray[np.int64]


@rule("recomputation that costs more than it saves")
def recomputation(trace: Trace) -> Iterator[Finding]:
    """The time of activation checkpointing, and the bytes of activations that would be kept without it.

    These are the activations made again in a step, but for those of one checkpoint, that are held at once with it too.
    """
    loop, time = _price(trace)
    if time < LEAST * (loop.loop if isinstance(loop, DeviceLoop) else loop).time:
        return
    try:
        account = memory_accounts(trace)[0]
    except NotTold:
        account = None
    saved, details = _saved(trace, account) if account is not None else (None, [])
    saves = "what it saves is not known"
    if account is not None and saved is not None:
        saves = f"it saves up to {format_bytes(saved)} of activations; the peak is {format_bytes(account.peak.bytes)}"
    sums = op_sums(trace)
    sums = sums[sums["phase"] == Phase.RECOMPUTATION]
    yield Finding(
        "recomputation",
        f"Activation checkpointing recomputes for {format_ns(time)} in a step; {saves}",
        "Where there is memory to spare, checkpoint fewer modules, without those that save least for their time; or keep the "
        "results of products and attention, and recompute the rest: create_selective_checkpoint_contexts.",
        "https://docs.pytorch.org/docs/stable/checkpoint.html",
        loop.worth(time, "the time of recomputation, all or part of which can go where memory is to spare"),
        lines=tuple(most_first(zip(lines_of(trace, sums), sums["time"].tolist(), strict=True)))[:3],
        details=tuple(details),
    )


def _price(trace: Trace) -> tuple[Loop | DeviceLoop, int]:
    """Nanoseconds of recomputation in a step: of devices where these were recorded, else of the host."""
    if has_kernels(trace):
        loop = device_loop_of(trace)
        kernels = step_totals(trace).kernels
        return loop, int(kernels["time"][kernels["phase"] == Phase.RECOMPUTATION].sum()) // loop.steps
    times = step_times(trace)
    if times is None or not len(times.time):
        raise NotTold("it is not known how long the phases of the recording took")
    return loop_of(trace), int(times.by_phase[Phase.RECOMPUTATION].mean())


@dataclass
class Checkpoint:
    """Modules of one kind that are recomputed: nanoseconds and bytes of all active steps."""

    kind: str
    time: int = 0
    bytes: int = 0

    @property
    def value(self) -> float:
        """Bytes for a nanosecond."""
        return self.bytes / self.time if self.time else float("inf")


def _saved(trace: Trace, account: MemoryAccount) -> tuple[int | None, list[str]]:
    """Bytes that checkpointing saves, None where that is not known; and a line for each kind, the least value first."""
    active = active_steps(trace)
    steps = max(1, len(active))
    allocations = account.allocations
    of_ops = np.append(phases(trace.ops), 0)[allocations["op"]]
    rows = np.flatnonzero(
        (of_ops == Phase.RECOMPUTATION)
        & (account.category == CATEGORIES.index("activations"))
        & (step_of(allocations["start"], trace, active) >= 0)
    )
    if account.saved_unknown is not None or not len(rows):
        return None, []
    changes = Changes(allocations[rows])
    saved = int(allocations["bytes"][rows].sum()) // steps - int(changes.held.max())
    calls = trace.module_calls
    again = is_recomputed(trace)
    outermost = np.flatnonzero(again & ~np.append(again, False)[calls["parent"]])
    outermost = outermost[step_of(calls["start"][outermost], trace, active) >= 0]
    kinds = [kind_of(path) for path in paths(trace)[1]]
    found: dict[str, Checkpoint] = {}
    for row, time in zip(outermost.tolist(), durations(calls)[outermost].tolist(), strict=True):
        found.setdefault(kinds[row], Checkpoint(kinds[row])).time += time
    around = _outermost(calls["parent"], again, allocations["module_call"][rows].astype(np.int64))
    for row, size in zip(around.tolist(), allocations["bytes"][rows].tolist(), strict=True):
        if row >= 0 and kinds[row] in found:
            found[kinds[row]].bytes += size
    details = [
        f"{each.kind or 'the model'}: {format_bytes(each.bytes // steps)} of activations for {format_ns(each.time // steps)}"
        for each in sorted(found.values(), key=lambda each: (each.value, each.kind))
    ]
    return max(0, saved), details


def _outermost(parent: Ints, again: npt.NDArray[np.bool_], calls: Ints) -> Ints:
    """The outermost recomputed call around each of these; -1: none."""
    found, at = np.full(len(calls), -1), calls.copy()
    while (at >= 0).any():
        recomputed = (at >= 0) & np.append(again, False)[at]
        found[recomputed] = at[recomputed]
        at = np.where(at >= 0, np.append(parent.astype(np.int64), -1)[at], -1)
    return found
