"""What one recorded call did: kernels, memory, FLOPs, modules. What is not known is None, and why is said."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from torchprof.analysis.gpu.backend import gpu_backend, has_kernels
from torchprof.analysis.gpu.devices import devices_and_gaps
from torchprof.analysis.gpu.kernels import kernel_times
from torchprof.analysis.memory.account import MemoryAccount
from torchprof.analysis.memory.devices import devices_by_memory
from torchprof.analysis.model.flops import at_least, counts_flops, unknown_op
from torchprof.analysis.time.module_records import module_records
from torchprof.analysis.time.totals import step_totals
from torchprof.trace.trace import Trace

__all__ = ["Figures", "HotModule", "figures_of"]

HOTTEST: Final = 3
EVENTS: Final = "the GPU was recorded with events, whose intervals are of ops, gaps between kernels included"
Number = int | float


@dataclass(frozen=True, slots=True)
class HotModule:
    """A module and the time of itself, without the modules below it.

    Attributes:
        path, type: its path in the model, empty for the root, and its class.
        time: nanoseconds of a call: of its kernels where a device worked, else of the host.
        share: of the time of all modules and of what belongs to none.
    """

    path: str
    type: str
    time: float
    share: float

    def __str__(self) -> str:
        return f"{self.path} ({self.type})" if self.path else self.type


@dataclass(frozen=True, slots=True)
class Figures:
    """The figures of one call: medians of the recorded calls, but the most of ``peak`` and ``reserved``.

    Attributes:
        rounds: the number of recorded calls.
        backend: how devices were recorded: ``"cupti"``, ``"events"`` or ``"off"``.
        devices: those that worked.
        device_times: nanoseconds of all kernels, copies and memsets of each call, added up; with events, of the intervals of
            ops. Empty where no device was recorded.
        busy: nanoseconds in which a device ran any of them, added up over devices.
        kernels: how many of them there were.
        memory_device: the device that ``peak`` and ``reserved`` are of.
        peak: the most bytes that were held there at once, also of what was there before.
        reserved: the most bytes that its allocator had reserved.
        ops: the number of ops.
        flops: of all ops; a lower bound where there are any in ``flops_unknown``.
        flops_unknown: ops that may have FLOPs of which nobody knows how many.
        hottest: the modules with the most time of their own, three at most.
        unknown: why a figure of this name is None.
        varying: figures that were not the same in all recorded calls, though they are counts.
    """

    rounds: int
    backend: str
    devices: tuple[str, ...]
    device_times: tuple[int, ...]
    busy: Number | None
    kernels: Number | None
    memory_device: str
    peak: int | None
    reserved: int | None
    ops: Number
    flops: Number | None
    flops_unknown: tuple[str, ...]
    hottest: tuple[HotModule, ...]
    unknown: dict[str, str]
    varying: tuple[str, ...]

    @property
    def device_time(self) -> Number | None:
        """The median of ``device_times``; None where no device was recorded."""
        return _median(self.device_times)


def figures_of(traces: Sequence[Trace]) -> Figures:
    """The figures of calls, each of which has a trace. There is at least one."""
    unknown: dict[str, str] = {}
    counts: dict[str, list[Number]] = {"ops": [int(step_totals(trace).ops["count"].sum()) for trace in traces]}
    devices: dict[str, None] = {}
    times: list[int] = []
    busy: list[int] = []
    backend = gpu_backend(traces[-1])
    if backend == "off":
        why = f"no GPU was recorded ({traces[-1].facts.get('gpu_note') or 'gpu=off'})"
        unknown |= dict.fromkeys(("device_time", "busy", "kernels"), why)
    else:
        for trace in traces:
            found = [device for device, _ in devices_and_gaps(trace)]
            devices |= dict.fromkeys(device.name for device in found)
            times.append(int(kernel_times(trace.kernels).sum()))
            busy.append(sum(device.busy for device in found))
        if backend == "events":
            unknown |= dict.fromkeys(("busy", "kernels"), EVENTS)
        else:
            counts["kernels"] = [len(trace.kernels) for trace in traces]
    memory_device, peak, reserved = _memory(traces, unknown)
    flops, flops_unknown = _flops(traces, unknown)
    if flops:
        counts["flops"] = flops
    hottest = _hottest(traces)
    if not hottest:
        unknown["hottest"] = "no module was called"
    return Figures(
        rounds=len(traces),
        backend=backend,
        devices=tuple(devices),
        device_times=tuple(times),
        busy=_median(busy) if "busy" not in unknown else None,
        kernels=_median(counts.get("kernels", ())),
        memory_device=memory_device,
        peak=peak,
        reserved=reserved,
        ops=statistics.median(counts["ops"]),
        flops=_median(flops),
        flops_unknown=flops_unknown,
        hottest=hottest,
        unknown=unknown,
        varying=tuple(name for name, values in counts.items() if len(set(values)) > 1),
    )


def _median(values: Iterable[Number]) -> Number | None:
    known = list(values)
    return statistics.median(known) if known else None


def _memory(traces: Sequence[Trace], unknown: dict[str, str]) -> tuple[str, int | None, int | None]:
    """The device whose memory counts, the most that was held on it, and the most that was reserved of it."""
    worked = {device.name for trace in traces for device, _ in devices_and_gaps(trace)}
    known = devices_by_memory(traces[-1])
    name = next((name for name in known if name in worked), known[0] if known else "cpu")
    accounts = [MemoryAccount.of(trace, name) for trace in traces if name in devices_by_memory(trace)]
    if not accounts:
        unknown["peak"] = unknown["reserved"] = "no memory was seen: the call used no tensor"
        return name, None, None
    reserved = [account.max_reserved for account in accounts if account.max_reserved is not None]
    if not reserved:
        unknown["reserved"] = f"the allocator of {name} does not report what it has reserved"
    return name, max(account.peak.bytes for account in accounts), max(reserved, default=None)


def _flops(traces: Sequence[Trace], unknown: dict[str, str]) -> tuple[list[Number], tuple[str, ...]]:
    if not all(counts_flops(trace) for trace in traces):
        unknown["flops"] = "FLOPs were not counted"
        return [], ()
    found: list[Number] = []
    names: set[str] = set()
    for trace in traces:
        totals = step_totals(trace)
        names |= {unknown_op(trace, int(row)) for row in totals.ops["signature"][totals.op_unknown]}
        found.append(int(totals.op_flops.sum()))
    if at_least(max(found), names) is None:
        unknown["flops"] = f"nobody knows how many {', '.join(sorted(names))} computes"
        return [], tuple(sorted(names))
    return found, tuple(sorted(names))


def _hottest(traces: Sequence[Trace]) -> tuple[HotModule, ...]:
    name = "device_self" if any(map(has_kernels, traces)) else "self"
    records = [record for trace in traces for record in module_records(trace)]
    whole = sum(float(record.get(name) or 0) for record in records)
    times: dict[tuple[str, str], float] = {}
    for record in records:
        if record["type"]:
            key = record["path"], record["type"]
            times[key] = times.get(key, 0.0) + float(record.get(name) or 0)
    most = sorted(((time, key) for key, time in times.items() if time > 0), key=lambda each: -each[0])[:HOTTEST]
    return tuple(HotModule(*key, time / len(traces), time / whole) for time, key in most)
