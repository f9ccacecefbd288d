"""The host waits while it copies to the device."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np

from torchprof.advice.finding import Finding
from torchprof.advice.idle_of import check_kernels, idle_of
from torchprof.advice.loop import loop_of
from torchprof.advice.ops_of import uses_device
from torchprof.advice.places import per_step
from torchprof.advice.registry import NotTold, rule
from torchprof.advice.waits_of import places_of_waits, waits_of, worth_of_waits
from torchprof.rendering.units import format_ns
from torchprof.trace.schema import Activity, Direction
from torchprof.trace.trace import Trace

__all__ = ["blocking_copies"]

PINNED: Final = "Pinned"
"""In the names of copies from pinned memory."""


@rule("copies to the device that the host waits for")
def blocking_copies(trace: Trace) -> Iterator[Finding]:
    """Waits of the host in copies to the device, and the idle time of the device that follows."""
    if not uses_device(trace):
        return
    check_kernels(trace)
    if not len(trace.runtime_calls):
        raise NotTold("no calls of the device's runtime were recorded")
    loop, idle = loop_of(trace), idle_of(trace)
    if idle is None:
        return
    waits = waits_of(trace, idle).to_device
    worth = worth_of_waits(trace, loop, idle, waits)
    if loop.is_small(worth.high):
        return
    kernels = trace.kernels
    copies = kernels[(kernels["kind"] == Activity.COPY) & (kernels["direction"] == Direction.HOST_TO_DEVICE)]
    pinned = all(PINNED in trace.strings[name] for name in np.unique(copies["name"]).tolist())
    places = places_of_waits(trace, waits)
    count = per_step(places.count, loop, "copy", "copies")
    yield Finding(
        "blocking_copies",
        f"The host waits for {count} to the device, for {format_ns(places.time // loop.steps)}",
        ("Copy" if pinned else "Copy from pinned memory (DataLoader(pin_memory=True))")
        + " with .to(device, non_blocking=True), and as early as the data is there; make constants on the device, once.",
        "https://docs.pytorch.org/tutorials/intermediate/pinmem_nonblock.html",
        worth,
        lines=places.lines,
        details=places.details(loop),
    )
