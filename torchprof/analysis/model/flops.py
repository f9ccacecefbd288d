"""FLOPs and bytes of ops, by signature.

FLOPs were found when the recording ended: see `torchprof.record.flops`. An op inside another one that has a formula is not
counted again. What is unknown is said by name: a figure with unknown ops in it is a lower bound.

Bytes are the least an op can move: every input tensor read once, every output written once; an op that returns what it was
given (a view) moves nothing. They are an estimate of traffic, not a measurement: caches and repeated passes are not in it.
Where the bytes of a tensor are unknown, they are NaN, and so are sums with them. So are those of an op of which it is
not known what it returned, unless its name says that it moves nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from torchprof.analysis.spans import with_descendants
from torchprof.analysis.tensors import tensor_bytes
from torchprof.flops.views import moves_nothing
from torchprof.trace.schema import OP_NESTED, TENSOR_NOT_DENSE, TENSOR_WRAPPER, UNKNOWN_FLOPS, Phase, Rows, phases
from torchprof.trace.trace import Trace

__all__ = [
    "CallFlops",
    "PassFlops",
    "at_least",
    "call_flops",
    "counted_bytes",
    "counted_flops",
    "counts_flops",
    "has_formula",
    "is_unknown",
    "pass_flops",
    "signature_bytes",
    "signature_flops",
    "unknown_op",
]

Flags = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

OVERWRITES = frozenset({f"aten::{name}_" for name in "copy fill zero normal uniform random bernoulli exponential".split()})
"""Ops that write to their first input and do not read it."""

NOT_DENSE = " (sparse, nested or wrapped tensors)"
COMPILED = "compiled code"


def counts_flops(trace: Trace) -> bool:
    """Whether FLOPs were counted at all: not without the tensors of ops."""
    return bool(trace.facts.get("counts_flops", True))


def at_least(count: float, unknown: Collection[str]) -> float | None:
    """The count, or None where it has nothing but unknown ops."""
    return None if unknown and not count else count


def is_unknown(trace: Trace, signature: Rows, nested: Flags) -> Flags:
    """Of single ops with these signatures, whether they have FLOPs of which nobody knows how many."""
    unknown: Flags = (trace.signature_flops == UNKNOWN_FLOPS)[signature] & ~nested
    return unknown


def unknown_op(trace: Trace, signature: int) -> str:
    """How an op is called whose FLOPs are unknown."""
    row = trace.signatures[signature]
    name = trace.strings[int(row["name"])]
    if "::" not in name:
        return COMPILED
    first = int(row["inputs"])
    flags = trace.tensors["flags"][trace.operands[first : first + int(row["n_inputs"])]]
    return name + (NOT_DENSE if (flags & (TENSOR_NOT_DENSE | TENSOR_WRAPPER)).any() else "")


@dataclass(frozen=True, slots=True)
class CallFlops:
    """FLOPs of every row of ``trace.module_calls``, with those of the calls inside it.

    Attributes:
        forward, backward: of its ops, and of the ops of backward passes that differentiate these. Recomputation is in neither.
        forward_unknown, backward_unknown: the ops of which nobody knows how many, by call, for calls that have some.
    """

    forward: Ints
    backward: Ints
    forward_unknown: dict[int, frozenset[str]]
    backward_unknown: dict[int, frozenset[str]]


def call_flops(trace: Trace) -> CallFlops:
    """FLOPs of every module call."""
    calls, ops = trace.module_calls, trace.ops
    none = np.zeros(len(calls), dtype=np.int64)
    if not len(ops):
        return CallFlops(none, none, {}, {})
    nested = ops["flags"] & OP_NESTED != 0
    flops = counted_flops(trace, ops["signature"], nested)
    unknown = is_unknown(trace, ops["signature"], nested)
    phase, in_call = phases(ops), ops["module_call"] >= 0
    sums: list[Ints] = []
    names: list[dict[int, frozenset[str]]] = []
    for mask in (in_call & (phase <= Phase.FORWARD), in_call & (phase == Phase.BACKWARD)):
        counted = np.flatnonzero(mask & (flops != 0))
        own = none.copy()
        np.add.at(own, ops["module_call"][counted], flops[counted])
        sums.append(with_descendants(own, calls["parent"]) if len(counted) else own)
        names.append(_unknown_by_call(trace, np.flatnonzero(mask & unknown)))
    return CallFlops(sums[0], sums[1], names[0], names[1])


def _unknown_by_call(trace: Trace, rows: Rows) -> dict[int, frozenset[str]]:
    """The names of these ops, by the calls that they ran in."""
    found: dict[int, set[str]] = {}
    parents = trace.module_calls["parent"]
    for signature, first in dict.fromkeys(
        zip(*(trace.ops[name][rows].tolist() for name in ("signature", "module_call")), strict=True)
    ):
        name, call = unknown_op(trace, signature), first
        while call >= 0 and name not in found.setdefault(call, set()):
            found[call].add(name)
            call = int(parents[call])
    return {call: frozenset(names) for call, names in found.items()}


@dataclass(frozen=True, slots=True)
class PassFlops:
    """FLOPs of all ops of one pass.

    Attributes:
        forward, recomputed, backward: by what the step was doing.
        unknown, backward_unknown: how often each op ran of which nobody knows how many: before backward, and in it.
    """

    forward: int
    recomputed: int
    backward: int
    unknown: dict[str, int]
    backward_unknown: dict[str, int]


def pass_flops(trace: Trace) -> PassFlops:
    """FLOPs of all ops of a trace, in modules or not."""
    ops = trace.ops
    nested = ops["flags"] & OP_NESTED != 0
    flops, phase = counted_flops(trace, ops["signature"], nested), phases(ops)
    unknown = is_unknown(trace, ops["signature"], nested)
    recomputed, backward = phase == Phase.RECOMPUTATION, phase == Phase.BACKWARD

    def named(mask: Flags) -> dict[str, int]:
        return dict(Counter(unknown_op(trace, signature) for signature in ops["signature"][unknown & mask].tolist()))

    return PassFlops(
        forward=int(flops[phase <= Phase.FORWARD].sum()),
        recomputed=int(flops[recomputed].sum()),
        backward=int(flops[backward].sum()),
        unknown=named(~backward & ~recomputed),
        backward_unknown=named(backward | recomputed),
    )


def has_formula(trace: Trace) -> Flags:
    """Of each signature, whether its FLOPs are counted."""
    known: Flags = trace.signature_flops >= 0
    return known


def signature_flops(trace: Trace) -> npt.NDArray[np.int64]:
    """FLOPs of one op of each signature; 0 where there are none, or nobody knows how many."""
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
    sizes: list[float] = tensor_bytes(trace)[operands].tolist()  # plain numbers: most ops have a few
    storages: list[int] = tensors["storage"][operands].tolist()
    has_outputs = trace.facts.get("outputs") is not False
    for row, (name, first_in, first_out, _, _, n_in, n_out) in enumerate(trace.signatures.tolist()):
        read = storages[first_in : first_in + n_in]
        written = storages[first_out : first_out + n_out]
        op = trace.strings[name]
        in_place = op.endswith("_")
        if op.startswith(("aten::empty", "aten::new_empty")):
            continue  # allocates, writes nothing
        if not has_outputs and not n_out:
            moved[row] = 0 if moves_nothing(op) else np.nan
            continue
        if not in_place and (not n_out or (n_in and read[0] and all(each == read[0] for each in written))):
            continue  # a view, or nothing
        overwritten = 1 if op in OVERWRITES else 0
        moved[row, 0] = sum(sizes[first_in + overwritten : first_in + n_in])
        moved[row, 1] = sum(sizes[first_out : first_out + n_out])
    return moved
