"""FLOPs and bytes of ops, by signature.

FLOPs were found when the recording ended: see `torchprof.record.flops`. An op inside another one that has a formula is not
counted again.

Bytes are the least an op can move: every input tensor read once, every output written once; an op that returns what it was
given (a view) moves nothing. They are an estimate of traffic, not a measurement: caches and repeated passes are not in it.
Where the bytes of a tensor are unknown, they are NaN, and so are sums with them.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from torchprof.analysis.tensors import tensor_bytes
from torchprof.trace.schema import Rows
from torchprof.trace.trace import Trace

__all__ = ["counted_bytes", "counted_flops", "has_formula", "signature_bytes", "signature_flops"]

Flags = npt.NDArray[np.bool_]

OVERWRITES = frozenset({f"aten::{name}_" for name in "copy fill zero normal uniform random bernoulli exponential".split()})
"""Ops that write to their first input and do not read it."""


def has_formula(trace: Trace) -> Flags:
    """Of each signature, whether its FLOPs are counted."""
    known: Flags = trace.signature_flops >= 0
    return known


def signature_flops(trace: Trace) -> npt.NDArray[np.int64]:
    """FLOPs of one op of each signature; 0 where there is no formula, and where all its ops ran inside others that count."""
    return np.maximum(trace.signature_flops, 0)


def counted_flops(trace: Trace, signature: Rows, nested: Flags) -> npt.NDArray[np.int64]:
    """FLOPs of single ops with these signatures: 0 for one inside another that counts."""
    return np.where(nested, 0, signature_flops(trace)[signature])


def counted_bytes(trace: Trace, signature: Rows, nested: Flags, wrapper: Flags) -> npt.NDArray[np.float64]:
    """Bytes read and written by single ops with these signatures: those of one that leaves the work to others are theirs."""
    left_to_others = nested | (wrapper & ~has_formula(trace)[signature])
    return np.where(left_to_others, 0, signature_bytes(trace).sum(axis=1)[signature])


def signature_bytes(trace: Trace) -> npt.NDArray[np.float64]:
    """Bytes that one op of each signature reads and writes: an array of shape ``[signatures, 2]``."""
    tensors, operands = trace.tensors, trace.operands
    moved = np.zeros((len(trace.signatures), 2), dtype=np.float64)
    if not len(operands):
        return moved
    sizes = tensor_bytes(trace)[operands]
    storages = tensors["storage"][operands]
    for row, (name, first_in, first_out, _, _, n_in, n_out) in enumerate(trace.signatures.tolist()):
        read = storages[first_in : first_in + n_in]
        written = storages[first_out : first_out + n_out]
        op = trace.strings[name]
        in_place = op.endswith("_")
        if op.startswith(("aten::empty", "aten::new_empty")):
            continue  # allocates, writes nothing
        if not in_place and (not n_out or (n_in and (written == read[0]).all())):
            continue  # a view, or nothing
        overwritten = 1 if op in OVERWRITES else 0
        moved[row, 0] = sizes[first_in + overwritten : first_in + n_in].sum()
        moved[row, 1] = sizes[first_out : first_out + n_out].sum()
    return moved
