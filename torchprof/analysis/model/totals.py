"""The model as a whole: what its parameters take, and what one pass took."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field, replace

import numpy as np

from torchprof.analysis.gpu.kernels import kernel_times
from torchprof.analysis.memory.changes import memory_between
from torchprof.analysis.memory.devices import real_and_meta
from torchprof.analysis.model.flops import counts_flops, pass_flops
from torchprof.analysis.time.calls import CallCosts
from torchprof.trace.schema import Phase
from torchprof.trace.trace import Trace

__all__ = ["Totals", "model_totals"]


@dataclass(frozen=True, slots=True)
class Totals:
    """The model as a whole. Bytes are exact; times are host nanoseconds of one run.

    Attributes:
        params, trainable, frozen: elements, each shared parameter once.
        param_bytes_by_dtype, param_bytes_by_device: bytes of parameters by real dtype, and by device.
        buffer_bytes: bytes of buffers, each once.
        input_bytes: bytes of the input tensors; None where they are unknown.
        forward, backward: time of the passes, backward's being that of autograd's nodes; 0 where none ran.
        recompute: time of module calls that ran again inside backward; no part of ``backward``.
        backward_unattributed: backward time that belongs to no module.
        device_forward, device_recompute, device_backward: device time of the kernels that they launched; 0 where none were
            seen.
        flops, flops_backward, flops_recomputed: of forward, backward, and forward that checkpointing ran again; None where they
            were not counted. They are lower bounds where something is unknown.
        flops_unknown, flops_backward_unknown: how often each op ran whose FLOPs are unknown.
        allocated: everything forward allocated, freed or not.
        peak: the most that forward held at once beyond what was there before.
        peak_with_backward: the same for forward and backward together; 0 where no backward ran.
        saved: what autograd keeps for backward when forward is over: tensors that forward made and inputs it holds on to;
            parameters and buffers, which are there anyway, are not counted. None where that is unknown.
        saved_unknown_because: why it is.
        memory: ``"measured"``, ``"meta"`` (what the run would have taken, counted on meta tensors) or ``"none"``.
        losses: rows the recording had no room for, by table.
        batch: where shapes show -1 for a batch of 2, how it was found: ``"compared"`` with another batch, or taken to be the
            ``"first"`` dimension; otherwise empty.
        unbatched: a layer that took an input as one sample without a batch dimension, and its shape; empty where none did.
        failure: what ended the run, if it raised: figures are of what ran until then, and those of memory are not known.
    """

    params: int = 0
    trainable: int = 0
    frozen: int = 0
    param_bytes_by_dtype: dict[str, int] = field(default_factory=dict)
    param_bytes_by_device: dict[str, int] = field(default_factory=dict)
    buffer_bytes: int = 0
    input_bytes: int | None = 0
    forward: int = 0
    recompute: int = 0
    backward: int = 0
    backward_unattributed: int = 0
    device_forward: int = 0
    device_recompute: int = 0
    device_backward: int = 0
    flops: int | None = None
    flops_backward: int | None = None
    flops_recomputed: int | None = None
    flops_unknown: dict[str, int] = field(default_factory=dict)
    flops_backward_unknown: dict[str, int] = field(default_factory=dict)
    allocated: int = 0
    peak: int = 0
    peak_with_backward: int = 0
    saved: int | None = 0
    saved_unknown_because: str = ""
    memory: str = "none"
    losses: dict[str, int] = field(default_factory=dict)
    batch: str = ""
    unbatched: str = ""
    failure: str = ""

    @property
    def param_bytes(self) -> int:
        return sum(self.param_bytes_by_dtype.values())


def model_totals(trace: Trace, costs: CallCosts) -> Totals:
    """The totals of a trace that was recorded with a model."""
    assert trace.model is not None
    by_dtype: dict[str, int] = defaultdict(int)
    by_device: dict[str, int] = defaultdict(int)
    params = trainable = 0
    for parameter in trace.model.parameters():
        params += parameter.numel
        trainable += parameter.numel if parameter.trainable else 0
        by_dtype[parameter.dtype] += parameter.bytes
        by_device[parameter.device] += parameter.bytes
    totals = Totals(
        params=params,
        trainable=trainable,
        frozen=params - trainable,
        param_bytes_by_dtype=dict(by_dtype),
        param_bytes_by_device=dict(by_device),
        buffer_bytes=sum(buffer.bytes for buffer in trace.model.buffers()),
        input_bytes=trace.facts.get("input_bytes", 0),
        losses=trace.losses,
        batch=trace.facts.get("batch_found", ""),
    )
    start, end = trace.mark("forward"), trace.mark("forward done")
    if start is None or end is None:
        return totals
    released, freed = trace.mark("outputs released"), trace.mark("graph released")
    backward_done = trace.mark("backward done")
    totals = replace(
        totals,
        forward=end - start,
        recompute=int(costs.recompute_self.sum()),
        backward=int(costs.backward_self.sum()) + costs.backward_unattributed,
        backward_unattributed=costs.backward_unattributed,
        device_forward=_device_time(trace, Phase.FORWARD, Phase.OTHER),
        device_recompute=_device_time(trace, Phase.RECOMPUTATION),
        device_backward=_device_time(trace, Phase.BACKWARD),
    )
    if counts_flops(trace):
        counted = pass_flops(trace)
        totals = replace(
            totals,
            flops=counted.forward,
            flops_backward=counted.backward,
            flops_recomputed=counted.recomputed,
            flops_unknown=counted.unknown,
            flops_backward_unknown=counted.backward_unknown,
        )
    if not trace.facts.get("memory"):
        return totals
    real, meta = real_and_meta(trace)
    on_meta = by_device.keys() <= {"meta"} and trace.facts.get("inputs_on_meta", False)
    rows = meta if on_meta else real
    run = memory_between(rows, start, end)
    unknown: str = trace.facts.get("saved_unknown_because", "")
    saved = trace.facts.get("saved_input_bytes", 0)
    if released is not None and freed is not None:
        saved += max(0, -memory_between(rows, released, freed).kept)
    return replace(
        totals,
        allocated=run.allocated,
        peak=run.peak,
        peak_with_backward=memory_between(rows, start, backward_done).peak if backward_done is not None else 0,
        saved=saved if not unknown else None,
        saved_unknown_because=unknown,
        memory="meta" if on_meta else "measured",
    )


def _device_time(trace: Trace, *phases: Phase) -> int:
    """Of the kernels of these phases; but for those of backward, only where a module launched them."""
    kernels = trace.kernels
    counted = np.isin(kernels["phase"], phases) & ((kernels["phase"] == Phase.BACKWARD) | (kernels["module_call"] >= 0))
    return int(kernel_times(kernels[counted]).sum())
