"""The verdict: what a step costs and of what, what holds the memory, and whether a device was busy, in a sentence each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from torchprof.analysis.memory.account import MemoryAccount
from torchprof.analysis.memory.modules import NO_MODULE, module_label
from torchprof.analysis.steps import PHASE_COLUMNS, step_times
from torchprof.rendering.units import format_bytes, format_ns
from torchprof.tables.gpu import Gpu
from torchprof.trace.schema import Phase
from torchprof.trace.trace import Trace

__all__ = ["Sentence", "of_devices", "of_memory", "of_steps", "shares"]

LEAST: Final = 0.02
"""Parts of a whole that are smaller are not named."""
WORDS: Final = {"recompute": "recomputation", "data": "waiting for data"}


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence of the verdict.

    Attributes:
        of: what it is of: ``"steps"``, ``"memory"`` or ``"gpu"``.
        figure: the figure that counts.
        before, after: what stands before and after it.
    """

    of: str
    before: str
    figure: str
    after: str

    def __str__(self) -> str:
        return f"{self.before} {self.figure}{self.after}"


def of_steps(trace: Trace) -> Iterator[Sentence]:
    """What a step takes, and in which phases."""
    times = step_times(trace)
    if times is None or not len(times.time) or not (time := float(times.time.mean())):
        return
    phases = {WORDS.get(name, name): float(times.by_phase[phase].mean()) for name, phase in PHASE_COLUMNS.items()}
    phases["outside of phases"] = float(times.by_phase[Phase.OTHER].mean())
    mean = f", the mean of {len(times.time):,}" if len(times.time) > 1 else ""
    what = "A step takes" if times.is_step else "The recording took"
    yield Sentence("steps", what, format_ns(round(time)), f"{mean}: {shares(phases.items(), time)}")


def of_memory(account: MemoryAccount) -> Iterator[Sentence]:
    """What the most was that was held, when, and what it was."""
    peak = account.peak
    if not peak.bytes:
        return
    step = f" in {'warm-up ' if peak.warmup else ''}step {peak.step}" if peak.step is not None else ""
    module = f", {module_label(account.trace, peak.module)}" if peak.module != NO_MODULE else ""
    when = f"{step}, {peak.phase}{module}" if step or module else ""
    held = ((name, size) for name, size in account.by_category.items())
    incomplete = " of what was recorded" if account.trace.losses.get("allocations") else ""
    leaks = f"; {format_bytes(round(sum(leak.growth for leak in account.leaks)))} more at every step" if account.leaks else ""
    after = f"{incomplete} on {account.device}{when}: {shares(held, peak.bytes)}{leaks}"
    yield Sentence("memory", "The peak is", format_bytes(peak.bytes), after)


def of_devices(account: Gpu) -> Iterator[Sentence]:
    """How busy devices were, and why they were idle."""
    devices = account.devices
    if not devices:
        return
    span = sum(device.span for device in devices)
    busy = sum(device.busy for device in devices)
    idle = {WORDS.get(cause, cause): float(sum(device.idle[cause] for device in devices)) for cause in devices[0].idle}
    name = devices[0].name if len(devices) == 1 else f"{len(devices)} devices"
    verb = "was" if len(devices) == 1 else "were"
    of = f" of {format_ns(span)}" + (" together" if len(devices) > 1 else "")
    rest = f"; idle: {why}" if (why := shares(idle.items(), span)) else ""
    if account.utilization is not None and account.utilization.flops:
        rest += f"; MFU {100 * account.utilization.mfu:.1f}%"
    yield Sentence("gpu", f"{name} {verb} busy", f"{100 * busy / span:.1f}%" if span else "?", f"{of}{rest}")


def shares(parts: Iterable[tuple[str, float]], whole: float) -> str:
    """``52% backward, 28% forward``, most first."""
    largest = sorted(((value / whole, name) for name, value in parts), key=lambda part: -part[0])
    return ", ".join(f"{100 * share:.0f}% {name}" for share, name in largest if share >= LEAST)
