"""Memory of distributed training: what FSDP gathers and reduces, and what is sent between ranks.

It is told by the ranges that PyTorch opens itself, by the collectives among the ops and, of parameters, by what the model held:

    FSDP::all_gather (layer)            its buffers are sent
    FSDP::all_gather_copy_out (layer)   what is still held after it are the unsharded parameters
    FSDP::post_backward_reduce (layer)  what an optimizer reads later, or .grad holds, are the sharded gradients
    c10d::allreduce_, gloo:all_reduce   what they take, return and allocate is sent: the buckets of DistributedDataParallel;
                                        those that an optimizer reads (gradient_as_bucket_view=True) are its gradients

What FSDP gathers or reduces belongs to the module that the range names: it may run while another module does.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import numpy as np
import numpy.typing as npt

from torchprof.trace.schema import Phase, Rows, Use, phases
from torchprof.trace.trace import Trace

__all__ = ["Parallel", "as_sharded_parameters", "parallel_memory"]

Mask = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]


class Around(IntEnum):
    """What of distributed training is around an op."""

    NOTHING = 0
    GATHER = 1
    COPY_OUT = 2
    REDUCE = 3
    STEP = 4  # of an optimizer, which may be in backward, as soon as a gradient is reduced
    COLLECTIVE = 5
    FUNCTIONAL = 6  # a collective that returns new tensors, which may be activations


BEGINNINGS: Final = (
    ("FSDP::all_gather_copy_out", Around.COPY_OUT),
    ("FSDP::all_gather", Around.GATHER),
    ("FSDP::post_backward_reduce", Around.REDUCE),
    ("Optimizer.step#", Around.STEP),
    ("c10d::", Around.COLLECTIVE),
    ("_c10d_functional", Around.FUNCTIONAL),
    ("gloo:", Around.COLLECTIVE),
    ("nccl:", Around.COLLECTIVE),
)
"""How the names of the ops and ranges begin."""


@dataclass(frozen=True, slots=True)
class Parallel:
    """Which allocations are what, ``[allocations]``.

    Attributes:
        unsharded_parameters: gathered by FSDP, for as long as a layer needs them.
        sharded_gradients: of FSDP; of DTensors, such as those of tensor parallel.
        sent: made for a collective.
        given: taken or returned by a collective.
        buckets: made before backward, and given to a collective that writes to it in backward.
        uses_fsdp: whether FSDP reduced any gradients: those of unsharded parameters are others than those of sharded ones.
        modules: the name of the module in the range of FSDP that made it; empty for none.
    """

    unsharded_parameters: Mask
    sharded_gradients: Mask
    sent: Mask
    given: Mask
    buckets: Mask
    uses_fsdp: bool
    modules: list[str]


def parallel_memory(trace: Trace, allocations: Rows) -> Parallel:
    """What these rows of ``trace.allocations`` are for distributed training."""
    kinds = np.array([_kind(name) for name in trace.strings], dtype=np.int64)
    none = np.zeros(len(allocations), dtype=np.bool_)
    if not kinds.any():
        return Parallel(none, none, none, none, none, False, [""] * len(allocations))
    of_op = kinds[trace.op_names]
    around, kind = _innermost(trace.ops["parent"], of_op, allocations["op"])
    held_after = (allocations["end"] < 0) | (allocations["end"] > trace.ops["end"][around])
    kept = allocations["uses"] & (Use.GRADIENT | Use.READ_BY_OPTIMIZER) != 0
    in_place = (of_op == Around.COLLECTIVE) & (phases(trace.ops) == Phase.BACKWARD)
    in_place &= of_op[np.maximum(trace.ops["parent"], 0)] != Around.FUNCTIONAL
    names = [trace.strings[name] for name in trace.op_names[around].tolist()]
    of_fsdp = np.isin(kind, [Around.GATHER, Around.COPY_OUT, Around.REDUCE]).tolist()
    return Parallel(
        unsharded_parameters=(kind == Around.COPY_OUT) & held_after,
        sharded_gradients=(kind == Around.REDUCE) & held_after & kept,
        sent=np.isin(kind, [Around.GATHER, Around.COPY_OUT, Around.REDUCE, Around.COLLECTIVE]),
        given=_given(trace, allocations, of_op >= Around.COLLECTIVE),
        buckets=_given(trace, allocations, in_place) & (kind == Around.NOTHING),
        uses_fsdp=bool((of_op == Around.REDUCE).any()),
        modules=[
            name.rpartition(" (")[2][:-1] if is_fsdp and name.endswith(")") else ""
            for name, is_fsdp in zip(names, of_fsdp, strict=True)
        ],
    )


def as_sharded_parameters(allocations: Rows) -> Mask:
    """Which of these allocations are of a module with sharded parameters, and as large as one of these."""
    module, size = allocations["module"].astype(np.int64), allocations["bytes"]
    sharded = allocations["uses"] & (Use.SHARDED | Use.PARAMETER) == Use.SHARDED | Use.PARAMETER
    known = set(zip(module[sharded].tolist(), size[sharded].tolist(), strict=True))
    pairs = zip(module.tolist(), size.tolist(), strict=True)
    return np.array([pair in known for pair in pairs] if known else np.zeros(len(allocations)), dtype=np.bool_)


def _kind(name: str) -> Around:
    return next((kind for beginning, kind in BEGINNINGS if name.startswith(beginning)), Around.NOTHING)


def _innermost(parent: Rows, of_op: Ints, ops: Rows) -> tuple[Ints, Ints]:
    """The innermost op of a kind around each of these ops (else row 0), and its kind."""
    at = ops.astype(np.int64)
    left = np.flatnonzero(at >= 0)
    while len(left):
        left = left[of_op[at[left]] == Around.NOTHING]
        at[left] = parent[at[left]]
        left = left[at[left] >= 0]
    return np.maximum(at, 0), np.where(at >= 0, of_op[at], Around.NOTHING)


def _given(trace: Trace, allocations: Rows, collectives: Mask) -> Mask:
    """Which allocations one of these ops takes or returns."""
    given = np.zeros(len(allocations), dtype=np.bool_)
    by_address: dict[int, list[int]] = {}
    for row, address in enumerate(allocations["address"].tolist()):
        by_address.setdefault(address, []).append(row)
    for op in trace.ops[collectives]:
        for first, count in ((op["inputs"], op["n_inputs"]), (op["outputs"], op["n_outputs"])):
            for tensor in trace.operands[first : first + count].tolist():
                for row in by_address.get(int(trace.tensors["storage"][tensor]), ()):
                    end = allocations["end"][row]
                    given[row] |= allocations["start"][row] <= op["end"] and (end < 0 or end >= op["start"])
    return given
