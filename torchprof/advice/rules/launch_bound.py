"""The device waits for the host to launch its kernels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np

from torchprof.advice.finding import Finding
from torchprof.advice.idle_of import check_kernels, idle_of
from torchprof.advice.loop import loop_of
from torchprof.advice.ops_of import uses_device
from torchprof.advice.places import Places, per_step
from torchprof.advice.registry import rule
from torchprof.analysis.lines.where import lines_of_launches, most_first
from torchprof.rendering.units import format_ns
from torchprof.trace.schema import Phase, RuntimeCallKind
from torchprof.trace.trace import Trace

__all__ = ["launch_bound"]

LEAST: Final = 0.05
"""Part of a step below which it is not worth a word: the first kernels of a step come late in every loop."""

PHASES: Final = [phase.name.lower() if phase != Phase.OTHER else "the rest of the loop" for phase in Phase]


@rule("a device that waits for the host to launch kernels")
def launch_bound(trace: Trace) -> Iterator[Finding]:
    """Idle time of the device in which the host was late to launch, and did not wait for the device or for data."""
    if not uses_device(trace):
        return
    check_kernels(trace)
    loop, idle = loop_of(trace), idle_of(trace)
    if idle is None:
        return
    time = float(idle.launch_bound.sum()) / loop.steps
    if time < LEAST * loop.time:
        return
    late = idle.launch_bound > 0
    rows, times = idle.kernel[late], idle.launch_bound[late]
    phases = [PHASES[phase] for phase in np.minimum(trace.kernels["phase"][rows], len(PHASES) - 1).tolist()]
    places = Places.of(phases, [""] * len(rows), times)
    busy = idle.busy / max(1, idle.kernels)
    graphs = bool((trace.runtime_calls["kind"] == RuntimeCallKind.GRAPH_LAUNCH).any())
    compiled = bool(trace.facts.get("compiled"))
    how = (
        "put what is launched one by one into CUDA graphs too"
        if graphs
        else 'torch.compile(mode="reduce-overhead"), which launches CUDA graphs'
        if compiled
        else "torch.compile, which makes fewer and longer kernels; or CUDA graphs, which launch many at once"
    )
    yield Finding(
        "launch_bound",
        f"{idle.device} waits {format_ns(round(time))} of {loop.a_step} for the host to launch: "
        f"{per_step(idle.kernels, loop, 'kernel')} of {format_ns(round(busy))} on average",
        f"Give it more work with each launch: a larger batch; {how}.",
        "https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs",
        # At least nothing: the host is slower while it is recorded, and not all that it does can be compiled.
        loop.worth(time, "idle time of the device because the host was late"),
        lines=tuple(most_first(zip(lines_of_launches(trace, trace.kernels[rows]), times.tolist(), strict=True))),
        details=tuple(
            f"in {place.what}: {format_ns(round(place.time / loop.steps))} before {per_step(place.count, loop, 'kernel')}"
            for place in places.all
        ),
    )
