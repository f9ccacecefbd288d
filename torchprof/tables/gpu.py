"""`torchprof.gpu`: what devices did and why they were idle, to print."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Final

from torchprof.analysis.gpu.account import GpuAccount
from torchprof.analysis.gpu.backend import gpu_backend
from torchprof.analysis.gpu.gaps import CAUSES
from torchprof.analysis.gpu.idle import Idle
from torchprof.analysis.gpu.kernels import unseen_launches
from torchprof.analysis.gpu.utilization import Utilization, utilization
from torchprof.analysis.lines.where import most_first
from torchprof.analysis.records import Record
from torchprof.analysis.steps import active_steps
from torchprof.rendering.grid import Parts
from torchprof.rendering.printed import Printed
from torchprof.rendering.units import format_flops, format_ns
from torchprof.tables.checks import check_ceilings, check_trace
from torchprof.tables.footer import coverage, incomplete, launched_before_lines, of_file, unknown_flops
from torchprof.tables.table import Table, worth_showing
from torchprof.trace.ceilings import Ceilings
from torchprof.trace.trace import Trace
from torchprof.trace.unfinished import unfinished_kernels
from torchprof.wording import counted

__all__ = ["Gpu", "gpu"]

SHOWN, MODULES_SHOWN = 10, 6
MEANINGS: Final = {
    "launch-bound": "launch-bound: the device's queue was empty before the host launched the next kernel",
    "data": "data: of that, the time in which the thread that launched it waited for data",
    "synchronization": "synchronization: of that, as much as the host had waited for a device",
    "other": "other: launched in time, but waited for another stream or started late; or it is not known when it was launched",
}


@dataclass(frozen=True)
class Gpu(GpuAccount, Printed):
    """How busy devices were, why they were idle, what was copied and who waited for them. ``str()`` is the printed text.

    Beside the figures of `GpuAccount` (``devices``, ``idle``, ``copies``, ``waits``, ``graphs``, ``launch_bound``) it has
    tables of them, to sort, select and export: ``by_device``, ``by_cause``, ``by_copy``, ``by_wait`` and ``by_launches``. All
    are sums over the active steps.

    Attributes:
        ceilings: what a device can do, for ``utilization``; or None.
    """

    ceilings: Ceilings | None = None

    @cached_property
    def utilization(self) -> Utilization | None:
        """Model and hardware FLOPs utilization; None without ceilings, or where no device worked."""
        if self.ceilings is None or not self.devices:
            return None
        names = {device.name.partition(":")[0] for device in self.devices}
        types = [number for number, name in self.trace.device_types.items() if name in names]
        count = len(self.devices)
        return utilization(self.trace, span=self.span, devices=count, device_types=types, peak=self.ceilings.flops)

    @cached_property
    def by_device(self) -> Table:
        """Every device and its streams: kernels, busy and idle time, and the latter by cause."""
        rows: list[Record] = []
        for device in self.devices:
            row = {"name": device.name, "path": device.name, "depth": 0, "type": "", "kernels": device.kernels}
            row |= {"span": device.span, "busy": device.busy, "busy_share": device.busy / device.span}
            rows.append({**row, "idle": device.span - device.busy, **{_column(c): device.idle[c] for c in CAUSES}})
            for stream in device.streams:
                name = f"stream {stream.number}"
                row = {"name": name, "path": f"{device.name} {name}", "depth": 1, "type": "", "kernels": stream.kernels}
                rows.append({**row, "busy": stream.busy, "busy_share": stream.busy / device.span})
        columns = ("kernels", "span", "busy", "busy_share", "idle", *map(_column, CAUSES))
        columns = worth_showing(rows, columns, optional=("idle_data",))
        of, how = ("the span of the device", "") if len(self.devices) == 1 else ("the span of its device", "at most ")
        longest = max((device.span for device in self.devices), default=0)
        shares = coverage(self.trace, "busy_share", of, longest, of_all=True, how=how)
        return Table("Device", rows, columns, (shares,), is_tree=True)

    @cached_property
    def by_cause(self) -> Table:
        """Idle time by cause and, below each, by module, most first; the causes add up to it.

        With stacks, the line that launched what came late or, of data and synchronization, that waited.
        """
        return self._by_cause()

    def _by_cause(self, most: int | None = None) -> Table:
        """The same, with at most so many modules below a cause and a row for the others."""
        whole = sum(idle.time for idle in self.idle)

        def row(name: str, depth: int, found: Sequence[Idle]) -> Record:
            time = sum(idle.time for idle in found)
            ops = list(dict.fromkeys(idle.op for idle in found))  # those of most time first
            lines = most_first((idle.line, idle.time) for idle in found) if depth else []
            row = {"name": name, "path": name, "type": "", "depth": depth, "idle": time, "idle_share": time / whole}
            return {**row, "gaps": sum(idle.gaps for idle in found), "at": ops if depth else None, "lines": lines}

        rows: list[Record] = []
        for cause in CAUSES:
            of_cause = [idle for idle in self.idle if idle.cause == cause]
            if not of_cause:
                continue
            modules: dict[str, list[Idle]] = {}
            for idle in of_cause:
                modules.setdefault(idle.module, []).append(idle)
            below = sorted((row(module, 1, found) for module, found in modules.items()), key=lambda row: -row["idle"])
            if most is not None and len(below) > most:
                kept = {each["name"] for each in below[: most - 1]}
                others = [idle for idle in of_cause if idle.module not in kept]
                below = [*below[: most - 1], row(counted(len(below) - most + 1, "other module"), 1, others)]
            rows += [row(cause, 0, of_cause), *({**each, "path": f"{cause}: {each['name']}"} for each in below)]
        count = len(self.devices)
        of, how = ("all idle time", "") if count == 1 else (f"all idle time of {count} devices", "on average ")
        shares = coverage(self.trace, "idle_share", of, whole / max(count, 1), of_all=True, how=how)
        shown = worth_showing(rows, ("idle", "idle_share", "gaps", "at", "lines"), optional=("lines",))
        waits_for_data = any(idle.cause == "data" for idle in self.idle)
        meanings = [meaning for cause, meaning in MEANINGS.items() if cause != "data" or waits_for_data]
        return Table("Idle cause", rows, shown, (shares, *meanings), is_tree=True)

    @cached_property
    def by_copy(self) -> Table:
        """Copies by direction and module, most time first."""
        rows = [
            {
                "name": copies.direction,
                "module": copies.module,
                "count": copies.count,
                "total": copies.bytes,
                "took": copies.time,
                "byte_rate": copies.bytes / copies.time * 1e9 if copies.time and copies.bytes is not None else None,
            }
            for copies in self.copies
        ]
        return Table("Copies", rows, ("count", "total", "took", "byte_rate", "module"))

    @cached_property
    def by_wait(self) -> Table:
        """Where the host waited for a device, most time first; with stacks, the line of the program that did."""
        rows = [
            {
                "name": wait.op if wait.op == wait.inner else f"{wait.op} > {wait.inner}",
                "module": wait.module,
                "call": wait.call,
                "count": wait.count,
                "waited": wait.time,
                "lines": [wait.line] if wait.line else [],
            }
            for wait in self.waits
        ]
        shown = worth_showing(rows, ("count", "waited", "call", "module", "lines"), optional=("lines",))
        return Table("Waits of the host in", rows, shown)

    @cached_property
    def by_launches(self) -> Table:
        """Modules whose kernels take less time than the host needs to launch them, the largest difference first.

        With stacks, the lines of theirs that launched late.
        """
        late = [idle for idle in self.idle if idle.cause == "launch-bound"]
        rows: list[Record] = [
            {
                "name": bound.module,
                "host": bound.host,
                "took": bound.device,
                "lines": most_first((idle.line, idle.time) for idle in late if idle.module == bound.module),
            }
            for bound in self.launch_bound
        ]
        meaning = "Host time without waits, and without what is below; device time of the kernels launched meanwhile"
        shown = worth_showing(rows, ("host", "took", "host_ratio", "lines"), optional=("lines",))
        return Table("Launch-bound module", rows, shown, (meaning,))

    @property
    def span(self) -> int:
        """Nanoseconds from the start of the first kernel on any device to the end of the last."""
        ends = [device.start + device.span for device in self.devices]
        return max(ends) - min(device.start for device in self.devices) if ends else 0

    def to_dict(self) -> dict[str, Any]:
        """The account as plain data: nanoseconds and bytes, sums over the active steps."""
        found = self.utilization
        return {
            "steps": len(active_steps(self.trace)),
            "devices": self.by_device.to_dict(),
            "idle": self.by_cause.to_dict(),
            "copies": self.by_copy.to_dict(),
            "waits": self.by_wait.to_dict(),
            "launch_bound": self.by_launches.to_dict(),
            "graphs": asdict(self.graphs),
            "mfu": found.mfu if found is not None and found.flops else None,
            "remarks": list(self._remarks()),
        }

    def __repr__(self) -> str:
        busy = ", ".join(f"{device.name} {100 * device.busy / device.span:.1f}% busy" for device in self.devices)
        return f"<Gpu: {busy or 'no device worked'}>"

    def parts(self) -> Parts:
        yield self._headline()
        for table in (self.by_device, self._by_cause(MODULES_SHOWN), self.by_copy, self.by_wait, self.by_launches):
            if len(table):
                yield from (table if table.is_tree else table.head(SHOWN)).parts()
        yield from self._remarks()

    def _headline(self) -> str:
        facts = self.trace.facts
        backend = gpu_backend(self.trace)
        how = {"cupti": "seen by CUPTI", "events": "timed by events"}.get(backend, f"recorded by {backend}")
        error = int(facts.get("gpu_clock_error_ns", 0))
        within = f", times within {format_ns(error)} of the host's" if error else ""
        steps = len(active_steps(self.trace))
        over = f"{steps:,} steps" if steps > 1 else "one step" if steps else "the whole recording"
        what = f"kernels of {over}" if self.devices else f"nothing ran on a device in {over}"
        return f"GPU: {what}, {how}{within}"

    def _remarks(self) -> Iterator[str]:
        facts = self.trace.facts
        if self.devices and not self.waits:
            unknown = gpu_backend(self.trace) == "events"
            yield f"Waits of the host: {'not known, calls of the runtime were not recorded' if unknown else 'none'}"
        if self.graphs.launches or self.graphs.kernels:
            launches, kernels, time = self.graphs.launches, self.graphs.kernels, self.graphs.time
            unseen = counted(self.graphs.unseen, "of them shows", "of them show")
            silent = f" ({unseen} no kernels)" if self.graphs.unseen else ""
            graphs = f"{counted(launches, 'launch', 'launches')}{silent}, {counted(kernels, 'kernel')}"
            yield f"CUDA graphs: {graphs}, {format_ns(time)} of device time"
        if self.utilization is not None and self.ceilings is not None:
            yield from _utilization_lines(self.utilization, self.ceilings, self.trace, in_graphs=self.graphs.kernels > 0)
        if facts.get("gpu_note"):
            yield f"Note: {facts['gpu_note']}"
        if unlaunched := unseen_launches(self.trace):
            which = counted(unlaunched, "kernel, which belongs", "kernels, which belong")
            yield f"Launches not seen: {which} to no op and no module"
        yield from launched_before_lines(self.trace)
        yield from of_file(self.trace)
        yield from incomplete(self.trace.losses, unfinished_kernels(self.trace))


def _utilization_lines(found: Utilization, ceilings: Ceilings, trace: Trace, *, in_graphs: bool) -> Iterator[str]:
    if not found.flops and found.unknown:
        yield "MFU: not known"
        yield from unknown_flops(found.unknown, trace)
        return
    if not found.flops:
        how = "record_shapes=True" if "source" in trace.facts else "shapes=True"
        yield f"MFU: not known, no FLOPs were counted: record with {how}"
        return
    devices = f"{found.devices} x " if found.devices > 1 else ""
    peak = f"{devices}{format_flops(ceilings.flops)}FLOP/s ({ceilings.device}, {ceilings.dtype})"
    counted = format_flops(found.flops - found.recomputed)
    yield f"MFU: {100 * found.mfu:.1f}%, {counted}FLOPs in {format_ns(found.span)} against {peak}"
    if found.recomputed:
        yield f"HFU: {100 * found.hfu:.1f}%, with {format_flops(found.recomputed)}FLOPs of recomputation"
    yield from unknown_flops(found.unknown, trace)
    if in_graphs:
        yield "FLOPs inside CUDA graphs are not counted"


def _column(cause: str) -> str:
    return f"idle_{cause.replace('-', '_')}"


def gpu(trace: Trace, *, ceilings: Ceilings | None = None) -> Gpu:
    """Account for the time of devices: busy or idle, why idle, copies, and waits of the host.

    Idle time has four causes, which add up to it: *launch-bound*, the device's queue was empty before the host launched the
    next kernel; *data*, of that, the time in which the thread that launched it waited for data; *synchronization*, as much of
    what is left as the host had waited for a device before the launch; and *other*, the kernel had been launched in time, and
    waited for another stream or took its time to start.

    Args:
        trace: of `torchprof.profile`, recorded where a device was in use.
        ceilings: of ``torchprof.ceilings("cuda")``, or your own figures: adds the utilization (MFU, HFU).

    Raises:
        ArgumentError: no device was recorded, the trace keeps sums only (``aggregate=True``), or the ceilings are a CPU's.

    Example:
        >>> print(torchprof.gpu(prof.trace, ceilings=torchprof.ceilings("cuda", torch.bfloat16)))
        >>> torchprof.gpu(prof.trace).devices[0].idle["synchronization"]
    """
    check_trace(trace)
    if ceilings is not None:
        check_ceilings(ceilings, of_device=True)
    return Gpu(GpuAccount.of(trace).trace, ceilings)
