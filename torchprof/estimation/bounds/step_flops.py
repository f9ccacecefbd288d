"""FLOPs of a step by what they are computed in, and by whether they are the model's own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from torchprof.analysis.model.flops import counted_flops, is_unknown, signature_flops, unknown_op
from torchprof.analysis.steps import active_steps, step_of
from torchprof.trace.schema import OP_NESTED, Phase, phases
from torchprof.trace.trace import Trace

__all__ = ["FLOAT32_PRODUCTS", "CountedRows", "StepFlops", "counted_rows", "step_flops"]

FLOAT32_PRODUCTS: Final = "float32_products"
"""The fact that says what products of float32 are computed in: ``"tf32"``, or else float32."""
TF32: Final = "tf32"
FLOAT32: Final = "float32"
PRODUCTS: Final = frozenset(
    f"aten::{name}"
    for name in "mm bmm addmm baddbmm addbmm _addmm_activation _foreach_mm linear matmul mv addmv addr dot vdot".split()
)
"""Ops that compute float32 as ``torch.backends.cuda.matmul`` says. Convolutions and attention have settings of their own."""
ONE_KERNEL: Final = ("attention", "attn")
"""What is in the names of ops that are attention in one kernel."""

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class StepFlops:
    """FLOPs of one step, by the name of the dtype that they are computed in; ``"tf32"`` where float32 may be.

    Attributes:
        model: of forward and backward.
        recomputed: once more, by activation checkpointing.
        optimizer: of the optimizer, as where it multiplies matrices.
        one_kernel: those of all these that are attention in one kernel, which leaves out what a causal mask does. That is half,
            and the trace does not say whether there is such a mask.
        unknown: the ops of which nobody knows how many.
    """

    model: Mapping[str, int]
    recomputed: Mapping[str, int]
    optimizer: Mapping[str, int]
    one_kernel: Mapping[str, int]
    unknown: tuple[str, ...]

    @property
    def all(self) -> dict[str, int]:
        """FLOPs by dtype, whatever they are for."""
        return dict(sum((Counter(each) for each in (self.model, self.recomputed, self.optimizer)), Counter()))

    @property
    def least(self) -> dict[str, int]:
        """The fewest that are computed, by dtype: as if all attention in one kernel were causal."""
        return {dtype: count - self.one_kernel.get(dtype, 0) // 2 for dtype, count in self.all.items()}


def step_flops(trace: Trace) -> StepFlops:
    """FLOPs of the last step, or of all where there are no steps.

    What they are computed in is the dtype of the inputs of the innermost op that has a formula: under autocast, ops around it
    are given others.
    """
    counted = counted_rows(trace)
    rows, flops, dtypes = counted.rows, counted.flops, counted.dtypes
    signature, nested = trace.ops["signature"][rows], trace.ops["flags"][rows] & OP_NESTED != 0
    phase = phases(trace.ops)[rows]

    def by_dtype(of: npt.NDArray[np.bool_]) -> dict[str, int]:
        names = np.unique(dtypes[of & (flops > 0)]).tolist()
        return {name: int(flops[of & (dtypes == name)].sum()) for name in names}

    is_recomputed, is_optimizer = phase == Phase.RECOMPUTATION, phase == Phase.OPTIMIZER
    unknown = {unknown_op(trace, each) for each in np.unique(signature[is_unknown(trace, signature, nested)]).tolist()}
    return StepFlops(
        model=by_dtype(~is_recomputed & ~is_optimizer),
        recomputed=by_dtype(is_recomputed),
        optimizer=by_dtype(is_optimizer),
        one_kernel=by_dtype(counted.one_kernel),
        unknown=tuple(sorted(unknown)),
    )


@dataclass(frozen=True, slots=True)
class CountedRows:
    """FLOPs of the ops of the last step, one value for each.

    Attributes:
        rows: of the table of ops.
        flops: that count; 0 of an op inside one that counts.
        dtypes: what they are computed in.
        one_kernel: whether it is attention in one kernel.
    """

    rows: Ints
    flops: Ints
    dtypes: npt.NDArray[np.str_]
    one_kernel: npt.NDArray[np.bool_]

    @property
    def least(self) -> Ints:
        """The fewest that are computed: as if all attention in one kernel were causal."""
        found: Ints = self.flops - np.where(self.one_kernel, self.flops // 2, 0)
        return found


def counted_rows(trace: Trace) -> CountedRows:
    """What each op of the last step computes."""
    active = active_steps(trace)
    last = max(len(active) - 1, 0)
    ops = trace.ops
    rows = np.flatnonzero(step_of(ops["start"], trace, active) == last)
    signature, nested = ops["signature"][rows], ops["flags"][rows] & OP_NESTED != 0
    flops, innermost = counted_flops(trace, signature, nested), _innermost(trace, rows)
    return CountedRows(rows, flops, _computed_in(trace)[innermost], _one_kernel(trace)[innermost])


def _innermost(trace: Trace, rows: Ints) -> Ints:
    """For each of these ops, the signature of the op inside it, or itself, that does its work."""
    ops = trace.ops
    signature: Ints = ops["signature"].astype(np.int64)
    has_work = signature_flops(trace)[signature] > 0
    # Parents come before children, so that from the last row on, each op that does work takes the place of those around it.
    innermost = signature.copy()
    for row in rows[has_work[rows] & (ops["flags"][rows] & OP_NESTED != 0)][::-1].tolist():
        parent = int(ops["parent"][row])
        while parent >= 0 and not has_work[parent]:
            parent = int(ops["parent"][parent])
        if parent >= 0:
            innermost[parent] = innermost[row]
    found: Ints = innermost[rows]
    return found


def _computed_in(trace: Trace) -> npt.NDArray[np.str_]:
    """Of each signature, what its first floating-point input is computed in."""
    products = trace.facts.get(FLOAT32_PRODUCTS)
    found = []
    for name, first, count in trace.signatures[["name", "inputs", "n_inputs"]].tolist():
        given = trace.tensors["dtype"][trace.operands[first : first + count]].tolist()
        dtype = next((trace.dtypes[each].name for each in given), "")
        if dtype == FLOAT32 and (products == TF32 or trace.strings[name].removesuffix("_") not in PRODUCTS):
            dtype = TF32
        found.append(dtype)
    return np.array(found, dtype=np.str_)


def _one_kernel(trace: Trace) -> npt.NDArray[np.bool_]:
    """Of each signature, whether it is attention in one kernel."""
    names = [trace.strings[name] for name in trace.signatures["name"].tolist()]
    return np.array([any(each in name for each in ONE_KERNEL) for name in names], dtype=np.bool_)
