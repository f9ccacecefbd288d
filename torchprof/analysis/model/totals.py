"""The model as a whole: what its parameters take, and what one pass took."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np

from torchprof.analysis.gpu.kernels import kernel_times
from torchprof.analysis.memory.changes import memory_between
from torchprof.analysis.memory.devices import real_and_meta
from torchprof.analysis.model.flops import counts_flops, pass_flops
from torchprof.analysis.model.shards import mesh_text, shards_of
from torchprof.analysis.time.calls import CallCosts
from torchprof.trace.model import UNKNOWN
from torchprof.trace.schema import Phase
from torchprof.trace.trace import Trace

__all__ = ["Totals", "model_totals"]

META_KERNELS: Final = "what PyTorch's kernels for meta tensors allocate is not what those of a device do"


@dataclass(frozen=True, slots=True)
class Totals:
    """The model as a whole. Bytes are exact; times are host nanoseconds of one run.

    Attributes:
        params, trainable, frozen: elements, each shared parameter once.
        params_local: elements of parameters that this rank has: fewer, where they are split between ranks.
        params_unknown: how many objects have parameters in them that cannot be read: with some, the figures are lower bounds.
        param_bytes_by_dtype, param_bytes_by_device: bytes of parameters by real dtype, and by device; on this rank.
        param_bytes_whole: bytes of parameters on all ranks together, those that several ranks have once.
        meshes: the meshes of ranks that parameters are on, as in ``"dp=2 x tp=4"``; none where no parameter is a DTensor.
        buffer_bytes: bytes of buffers, each once, on this rank.
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
        memory: where these four figures come from: ``"measured"``; ``"meta"``: what the run would have taken, counted on
            tensors without memory; ``"unknown"``: it cannot be counted, and they are None; ``"none"``: nothing ran.
        counted_as: the device whose kernels were counted, if ``memory`` is ``"meta"``: ``"cuda"`` or ``"cpu"``.
        counted_on: what had no memory there: ``"meta"`` or ``"fake"`` tensors.
        unknown_because: why memory cannot be counted, if it cannot.
        losses: rows the recording had no room for, by table.
        batch: where shapes show -1 for a batch of 2, how it was found: ``"compared"`` with another batch, or taken to be the
            ``"first"`` dimension; otherwise empty.
        unbatched: a layer that took an input as one sample without a batch dimension, and its shape; empty where none did.
        failure: what ended the run, if it raised: figures are of what ran until then, and those of memory are not known.
    """

    params: int = 0
    trainable: int = 0
    frozen: int = 0
    params_unknown: int = 0
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
    allocated: int | None = 0
    peak: int | None = 0
    peak_with_backward: int | None = 0
    saved: int | None = 0
    saved_unknown_because: str = ""
    memory: str = "none"
    counted_as: str = ""
    counted_on: str = ""
    unknown_because: str = ""
    losses: dict[str, int] = field(default_factory=dict)
    batch: str = ""
    unbatched: str = ""
    failure: str = ""
    params_local: int = 0
    param_bytes_whole: int = 0
    meshes: tuple[str, ...] = ()

    @property
    def param_bytes(self) -> int:
        return sum(self.param_bytes_by_dtype.values())


def model_totals(trace: Trace, costs: CallCosts) -> Totals:
    """The totals of a trace that was recorded with a model."""
    assert trace.model is not None
    by_dtype: dict[str, int] = defaultdict(int)
    by_device: dict[str, int] = defaultdict(int)
    params = trainable = 0
    unknown = 0
    params_local = whole = 0
    shards = shards_of(trace)
    for module, parameter in ((m, p) for m in trace.model.modules for p in m.parameters if p.owner is None):
        if parameter.dtype == UNKNOWN:
            unknown += 1
            continue
        here = shards[module.path].get(parameter.name) if module.path in shards else None
        size = parameter.bytes if here is None else here.bytes
        params += parameter.numel
        params_local += parameter.numel if here is None else here.numel
        whole += size if here is None else here.whole_bytes
        trainable += parameter.numel if parameter.trainable else 0
        by_dtype[parameter.dtype] += size
        by_device[parameter.device] += size
    totals = Totals(
        params=params,
        params_local=params_local,
        param_bytes_whole=whole,
        meshes=tuple(dict.fromkeys(mesh_text(each.mesh) for tensors in shards.values() for each in tensors.values())),
        trainable=trainable,
        frozen=params - trainable,
        params_unknown=unknown,
        param_bytes_by_dtype=dict(by_dtype),
        param_bytes_by_device=dict(by_device),
        buffer_bytes=sum(buffer.bytes for buffer in trace.model.buffers()),
        input_bytes=trace.facts.get("input_bytes", 0),
        losses=trace.losses,
        batch=trace.facts.get("batch_found", ""),
    )
    start, end = trace.mark("forward"), trace.mark("forward done")
    if start is not None and counts_flops(trace):
        counted = pass_flops(trace)
        totals = replace(
            totals,
            flops=counted.forward,
            flops_backward=counted.backward,
            flops_recomputed=counted.recomputed,
            flops_unknown=counted.unknown,
            flops_backward_unknown=counted.backward_unknown,
        )
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
    if not trace.facts.get("memory"):
        return totals
    real, meta = real_and_meta(trace)
    counted_as = trace.facts.get("counted_as", "")
    if not counted_as and (because := _unknown_because(trace, by_device)):
        both = None if backward_done is not None else 0
        totals = replace(totals, allocated=None, peak=None, peak_with_backward=both, saved=None)
        return replace(totals, memory="unknown", unknown_because=because)
    rows = meta if counted_as else real
    run = memory_between(rows, start, end)
    saved_unknown: str = trace.facts.get("saved_unknown_because", "")
    saved = trace.facts.get("saved_input_bytes", 0)
    if released is not None and freed is not None:
        saved += max(0, -memory_between(rows, released, freed).kept)
    return replace(
        totals,
        allocated=run.allocated,
        peak=run.peak,
        peak_with_backward=memory_between(rows, start, backward_done).peak if backward_done is not None else 0,
        saved=saved if not saved_unknown else None,
        saved_unknown_because=saved_unknown,
        memory="meta" if counted_as else "measured",
        counted_as=counted_as,
        counted_on=trace.facts.get("counted_on", "meta") if counted_as else "",
    )


def _unknown_because(trace: Trace, devices: Collection[str]) -> str:
    """Why there is no memory to measure in a run that was not counted either; empty where there is."""
    has_inputs = bool(trace.facts.get("input_sizes"))
    on_meta = set(devices) <= {"meta"} and bool(trace.facts.get("inputs_on_meta", False) if has_inputs else devices)
    known: str = trace.facts.get("memory_unknown_because", META_KERNELS if on_meta else "")
    return known


def _device_time(trace: Trace, *phases: Phase) -> int:
    """Of the kernels of these phases; but for those of backward, only where a module launched them."""
    kernels = trace.kernels
    counted = np.isin(kernels["phase"], phases) & ((kernels["phase"] == Phase.BACKWARD) | (kernels["module_call"] >= 0))
    return int(kernel_times(kernels[counted]).sum())
