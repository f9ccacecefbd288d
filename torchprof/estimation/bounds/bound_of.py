"""Which bound an estimate has: what it computes at the peaks of a GPU, and what it sends over links."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from torchprof.estimation.bounds.bound import Bound
from torchprof.estimation.bounds.dimensions import sent_along
from torchprof.estimation.bounds.peaks import Peaks
from torchprof.estimation.bounds.pipeline import PipelineWork
from torchprof.estimation.bounds.step_flops import StepFlops, step_flops
from torchprof.estimation.sharding.communication import Sent
from torchprof.trace.ceilings import Ceilings
from torchprof.trace.trace import Trace
from torchprof.wording import numbered

__all__ = ["bound_of"]

WAYS_OUT: Final[Mapping[str, str]] = {
    "cuda": "no GPU is known: name one, as in bound('H100-80GB'), or give torchprof.Ceilings",
    "cpu": "give torchprof.Ceilings, such as torchprof.ceilings('cpu') measures here",
}
CAUSAL: Final = (
    "attention in one kernel takes half its FLOPs, as if all of it were causal: which mask or window it has is not known"
)


def bound_of(
    trace: Trace,
    sent: Sequence[Sent],
    device: str,
    known_as: str | None,
    gpu: str | Ceilings | None,
    links: Mapping[str, float | str] | None,
    pipeline: PipelineWork | None = None,
) -> Bound:
    """The bound of the last step of an estimate.

    Args:
        trace: of the estimate.
        sent: what it sends in that step.
        device: ``"cpu"`` or ``"cuda"``.
        known_as: the name in ``torchprof.GPUS`` of the GPU that the estimate is for; None: not known.
        gpu, links: as for `Estimate.bound`.
        pipeline: what the ranks of its pipeline compute; None where there is none.
    """
    given = gpu if gpu is not None else known_as
    peaks = Peaks.of_gpu(given) if given is not None else None
    flops = step_flops(trace)
    computing = [*_not_computed(flops, peaks, device)]
    compute = peaks.seconds(flops.least) if peaks is not None else None
    if not compute and computing:
        compute = None
    along = sent_along(trace, sent, links, (peaks.gpu if peaks is not None else None) or known_as)
    communication = along.seconds
    waiting = [*_not_played(pipeline)]
    bubble = None
    if pipeline is not None and peaks is not None and compute is not None and not waiting:
        bubble = max(pipeline.played(peaks.seconds).batch - compute, 0.0)
    step = max(compute + (bubble or 0.0), communication) if compute is not None and communication is not None else None
    mfu = min(peaks.seconds(flops.model) / step, 1.0) if peaks is not None and step and not computing else None
    return Bound(
        compute,
        communication,
        step,
        mfu,
        (*computing, *waiting, *along.unknown),
        along.dimensions,
        (*along.assumed, *([CAUSAL] if flops.one_kernel else [])),
        peaks.of if peaks is not None else None,
        flops.all,
        sum(flops.recomputed.values()),
        bubble,
    )


def _not_played(pipeline: PipelineWork | None) -> Iterator[str]:
    """Why the bubble of a pipeline is not known, in words."""
    if pipeline is not None and pipeline.missing:
        yield f"the bubble of the pipeline: what is computed in {numbered(pipeline.missing, 'stage')} is known with ranks='all'"


def _not_computed(flops: StepFlops, peaks: Peaks | None, device: str) -> Iterator[str]:
    """What of the FLOPs is not counted, in words."""
    if flops.unknown:
        yield f"the FLOPs of {', '.join(flops.unknown)}: nobody knows how many"
    if peaks is None:
        yield f"how fast it computes: {WAYS_OUT[device]}"
        return
    for dtype in sorted(flops.all):
        if peaks.rate(dtype) is None:
            yield f"what is computed in {dtype}: no rate of it is known of {peaks.of}; torchprof.Ceilings may have your own"
