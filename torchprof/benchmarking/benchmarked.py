"""`Benchmark`: how long a call takes, and what it did meanwhile, to print."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from torchprof.analysis.gpu.utilization import Utilization, utilization
from torchprof.benchmarking.figures import Figures, figures_of
from torchprof.rendering.grid import Parts
from torchprof.rendering.printed import Printed
from torchprof.rendering.units import format_bytes, format_count, format_flops, format_ns
from torchprof.tables.footer import incomplete
from torchprof.trace.ceilings import Ceilings
from torchprof.trace.trace import Trace
from torchprof.trace.unfinished import unfinished_kernels
from torchprof.wording import counted

__all__ = ["Benchmark"]

BUSIER: Final = 1.05
"""Times the time of a call, from which on more busy time than that is no noise."""


@dataclass(frozen=True)
class Benchmark(Printed):
    """What `torchprof.benchmark` found. ``str()`` is the printed text.

    Times are of calls that nothing recorded; ``figures`` are of further calls, which were recorded. A rate combines both: what
    was recorded is done in the time that a call takes when it is not.

    Attributes:
        name: of the function.
        times: nanoseconds of every timed call, until the devices had done what it launched.
        traces: of the recorded calls, one each, to look into further.
        waited_for: the devices that were waited for before and after every call; none where it works on the CPU.
        ceilings: what a device can do, for ``mfu``; or None.
    """

    name: str
    times: tuple[int, ...]
    traces: tuple[Trace, ...]
    waited_for: tuple[str, ...] = ()
    ceilings: Ceilings | None = None

    @property
    def time(self) -> float:
        """Nanoseconds of a call: the median of ``times``."""
        return statistics.median(self.times)

    @cached_property
    def figures(self) -> Figures:
        """Kernels, memory, FLOPs and the hottest modules of a call."""
        return figures_of(self.traces)

    @property
    def flop_rate(self) -> float | None:
        """FLOPs per second: those of a call in the time of a call. None where they are not known."""
        return self.figures.flops / self.time * 1e9 if self.figures.flops is not None and self.time else None

    @property
    def idle_share(self) -> float | None:
        """The part of a call in which the devices that worked ran nothing: 0 to 1. None where that is not known.

        It is what is left of the time of a call beside the time in which they were busy, which recording does not lengthen.
        """
        if self.figures.busy is None or not self.figures.devices or not self.time:
            return None
        return max(0.0, 1 - self.figures.busy / (self.time * len(self.figures.devices)))

    @property
    def mfu(self) -> float | None:
        """Model FLOPs utilization: FLOPs without recomputation, of what the devices can compute in the time of a call.

        Of those that worked, or of the CPU where none did. None where it is not known.
        """
        found = self._utilization
        return found.mfu if isinstance(found, Utilization) else None

    @property
    def unknown(self) -> dict[str, str]:
        """The figures that are not known, by the names that ``extra_info`` gives them, and why."""
        names = {"busy": "idle_share", "peak": "peak_bytes", "reserved": "reserved_bytes", "hottest": "hottest_modules"}
        found = {names.get(name, name): why for name, why in self.figures.unknown.items()}
        if self.idle_share is None:
            found.setdefault("idle_share", "no device worked")
        if self.flop_rate is None:
            found["flop_rate"] = found.get("flops", "the call took no time that the clock can tell")
        if isinstance(self._utilization, str):
            found["mfu"] = self._utilization
        return found

    @property
    def extra_info(self) -> dict[str, Any]:
        """The figures as plain data, as they are in ``extra_info`` of pytest-benchmark: seconds, bytes, fractions.

        None is not known; ``unknown`` says why.
        """
        figures = self.figures
        return {
            "device_time": figures.device_time / 1e9 if figures.device_time is not None else None,
            "kernels": figures.kernels,
            "idle_share": self.idle_share,
            "peak_bytes": figures.peak,
            "reserved_bytes": figures.reserved,
            "flops": figures.flops,
            "flops_unknown": list(figures.flops_unknown),
            "flop_rate": self.flop_rate,
            "mfu": self.mfu,
            "hottest_modules": [{"module": str(hot), "time": hot.time / 1e9, "share": hot.share} for hot in figures.hottest],
            "ops": figures.ops,
            "recorded_rounds": figures.rounds,
            "recorded_by": figures.backend,
            "devices": list(figures.devices),
            "memory_device": figures.memory_device,
            "waited_for": list(self.waited_for),
            "unknown": self.unknown,
            "notes": list(self._notes()),
        }

    def to_dict(self) -> dict[str, Any]:
        """The times in seconds, and ``extra_info``."""
        return {"name": self.name, "times": [time / 1e9 for time in self.times], **self.extra_info}

    def __repr__(self) -> str:
        return f"<Benchmark of {self.name}: {format_ns(round(self.time))}>"

    def parts(self) -> Parts:
        figures, unknown = self.figures, self.unknown
        least, most = (format_ns(time) for time in (min(self.times), max(self.times)))
        waited = f", waiting for {', '.join(self.waited_for)}" if self.waited_for else ""
        spread = f"{least} to {most}, median of {counted(len(self.times), 'call')}, not recorded{waited}"
        yield f"{self.name}: {format_ns(round(self.time))} ({spread})"
        yield f"Of {counted(figures.rounds, 'further call')}, recorded:"
        yield f"  Device time   {self._device_time() or _not_known(unknown['device_time'])}"
        if self.idle_share is not None:
            yield f"  Idle          {100 * self.idle_share:.1f}% of the call"
        elif figures.device_time:
            yield f"  Idle          {_not_known(unknown['idle_share'])}"
        yield f"  Peak          {_bytes_of(figures.peak, unknown.get('peak_bytes'))}{self._on()}"
        yield f"  Reserved      {_bytes_of(figures.reserved, unknown.get('reserved_bytes'))}"
        yield f"  FLOPs         {self._flops() or _not_known(unknown['flops'])}"
        yield f"  MFU           {self._mfu() or _not_known(unknown['mfu'])}"
        hottest = ", ".join(f"{hot} {100 * hot.share:.1f}%" for hot in figures.hottest)
        yield f"  Hottest       {hottest or _not_known(unknown['hottest_modules'])}"
        yield from self._notes()

    def _on(self) -> str:
        return f" on {self.figures.memory_device}" if self.figures.peak is not None else ""

    def _device_time(self) -> str:
        figures = self.figures
        if figures.device_time is None:
            return ""
        if not figures.devices:
            return "none: devices were recorded, and did nothing"
        of = (
            "of intervals of ops"
            if figures.kernels is None
            else f"of {format_count(figures.kernels)} kernels, copies and memsets"
        )
        return f"{format_ns(round(figures.device_time))}, {of} on {', '.join(figures.devices)}"

    def _flops(self) -> str:
        flops, rate = self.figures.flops, self.flop_rate
        if flops is None:
            return ""
        if not flops:
            return "none"
        least = ">= " if self.figures.flops_unknown else ""
        speed = f", {least}{format_flops(rate)}FLOP/s" if rate is not None else ""
        return f"{least}{format_flops(flops).strip()}{speed}"

    def _mfu(self) -> str:
        if self.mfu is None or self.ceilings is None:
            return ""
        least = ">= " if self.figures.flops_unknown else ""
        devices = f"{len(self.figures.devices)} x " if len(self.figures.devices) > 1 else ""
        peak = f"{devices}{format_flops(self.ceilings.flops)}FLOP/s ({self.ceilings.device}, {self.ceilings.dtype})"
        return f"{least}{100 * self.mfu:.1f}% of {peak}"

    def _notes(self) -> Iterator[str]:
        """What must be said of the figures."""
        figures = self.figures
        if figures.flops_unknown and figures.flops is not None:
            yield f"FLOPs are a lower bound: nobody knows those of {', '.join(figures.flops_unknown)}"
        if figures.varying:
            yield f"Not the same in every recorded call, the median is shown: {', '.join(figures.varying)}"
        if figures.busy is not None and figures.busy > BUSIER * self.time * max(1, len(figures.devices)):
            yield "Devices were busy for longer in a recorded call than a call takes: their clock was lower, or calls differ"
        if figures.backend == "events":
            yield f"Device time: {self.traces[-1].facts.get('gpu_note', '')}"
        elif "INCOMPLETE" in str(self.traces[-1].facts.get("gpu_note", "")):
            yield str(self.traces[-1].facts["gpu_note"])
        yield from dict.fromkeys(line for trace in self.traces for line in incomplete(trace.losses, unfinished_kernels(trace)))

    @cached_property
    def _utilization(self) -> Utilization | str:
        """How far the ceilings are reached, or why that is not known."""
        figures, ceilings = self.figures, self.ceilings
        if ceilings is None:
            return "no ceilings were given: see torchprof.ceilings"
        if ceilings.threads and figures.devices:
            return f"the ceilings are those of a CPU, and {', '.join(figures.devices)} did the work"
        if not ceilings.threads and not figures.devices:
            return f"the ceilings are those of {ceilings.device}, and no device was seen to work"
        if not figures.flops:
            return figures.unknown.get("flops", "no FLOPs were counted")
        if not self.time:
            return "the call took no time that the clock can tell"
        trace = self.traces[-1]
        names = {device.partition(":")[0] for device in figures.devices} or {"cpu"}
        types = [number for number, name in trace.device_types.items() if name in names]
        count = max(1, len(figures.devices))
        found = utilization(trace, span=round(self.time), devices=count, device_types=types, peak=ceilings.flops)
        return found if found.flops else f"no FLOPs were counted of ops on {', '.join(sorted(names))}"


def _bytes_of(count: int | None, why: str | None) -> str:
    return format_bytes(count) if count is not None else _not_known(why or "")


def _not_known(why: str) -> str:
    return f"not known: {why}"
