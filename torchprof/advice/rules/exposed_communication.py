"""Collectives during which the device computes nothing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from torchprof.advice.device_loop import device_loop_of
from torchprof.advice.finding import Finding
from torchprof.advice.registry import NotTold, rule
from torchprof.analysis.device_names import devices_of
from torchprof.analysis.distributed.collective_names import is_collective_kernel
from torchprof.analysis.gpu.gaps import gaps_between
from torchprof.analysis.gpu.kernel_names import short_name
from torchprof.analysis.gpu.kernels import kernel_steps
from torchprof.analysis.lines.stack_costs import is_aggregated
from torchprof.analysis.steps import active_steps
from torchprof.rendering.units import format_ns
from torchprof.trace.schema import Rows
from torchprof.trace.trace import Trace
from torchprof.wording import counted

__all__ = ["exposed_communication"]


@rule("collectives that nothing hides")
def exposed_communication(trace: Trace) -> Iterator[Finding]:
    """The time in which a device ran collectives and nothing else. With several devices, that of the one with most.

    A kernel of a collective begins when its own rank is there and ends when the last one was: how much of it is waiting for
    another rank, a trace of one cannot tell.
    """
    sends = np.array([is_collective_kernel(name) for name in trace.strings], dtype=np.bool_)
    if is_aggregated(trace):
        if sends[trace.kernel_totals["name"]].any():
            raise NotTold("the recording was aggregated, which keeps no single kernels")
        return
    loop = device_loop_of(trace)
    kernels = trace.kernels
    timed = kernels["end"] > kernels["start"]
    is_collective = sends[kernels["name"]] & timed & (kernel_steps(trace, active_steps(trace)) >= 0)
    if not is_collective.any():
        return
    names, device = devices_of(trace, kernels)
    computes = timed & ~sends[kernels["name"]]
    exposed = {
        name: _covered(kernels[(device == row) & (computes | is_collective)]) - _covered(kernels[(device == row) & computes])
        for row, name in enumerate(names)
    }
    most = max(exposed, key=lambda name: exposed[name])
    time = exposed[most] / loop.steps
    if loop.is_small(time):
        return
    collectives = kernels[is_collective & (device == names.index(most))]
    by_kernel: dict[str, list[int]] = defaultdict(list)
    for name, length in zip(collectives["name"].tolist(), (collectives["end"] - collectives["start"]).tolist(), strict=True):
        by_kernel[short_name(trace.strings[name])].append(length)
    in_all = sum(map(sum, by_kernel.values())) // loop.steps
    yield Finding(
        "exposed_communication",
        f"Collectives keep {most} from computing for {format_ns(round(time))} of the {format_ns(loop.busy)} in which it is "
        f"busy in a step, of {format_ns(in_all)} that they take",
        "Begin them earlier, beside other work: buckets of DistributedDataParallel (bucket_cap_mb), prefetching of FSDP, "
        "no_sync while gradients accumulate. Some of it may be waiting for a slower rank: compare the traces of several.",
        "https://docs.pytorch.org/docs/stable/notes/ddp.html",
        loop.worth(time, "the time in which only collectives ran, which includes waiting for other ranks"),
        details=tuple(
            f"{name}: {format_ns(sum(lengths) // loop.steps)} a step, {counted(len(lengths), 'kernel')} in all, "
            f"{format_ns(min(lengths))} to {format_ns(max(lengths))} each"
            for name, lengths in sorted(by_kernel.items(), key=lambda item: -sum(item[1]))
        ),
    )


def _covered(kernels: Rows) -> int:
    """Nanoseconds in which any of these ran."""
    if not len(kernels):
        return 0
    start: npt.NDArray[np.int64] = kernels["start"]
    begins, ends, _ = gaps_between(start, kernels["end"])
    return int(kernels["end"].max() - start.min() - (ends - begins).sum())
