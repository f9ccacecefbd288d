"""FLOPs and bytes of ops, evaluated once for each signature.

FLOPs come from the formulas of ``torch.utils.flop_counter``, those added with ``register_flop_formula`` included; register
them before recording. A multiply-add is two FLOPs. An op inside another one that has a formula is not counted again, as
``FlopCounterMode`` does not see it either.

Bytes are the least an op can move: every input tensor read once, every output written once; an op that returns what it was
given (a view) moves nothing. They are an estimate of traffic, not a measurement: caches and
repeated passes are not in it.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from torchprof.trace.schema import DTYPE_NAMES, ITEMSIZES, NO_ARGUMENTS, OP_NESTED
from torchprof.trace.trace import Trace

__all__ = [
    "counted_bytes",
    "counted_flops",
    "counted_ops",
    "has_formula",
    "ops_with_arguments",
    "signature_bytes",
    "signature_flops",
]

Rows = npt.NDArray[Any]
Flags = npt.NDArray[np.bool_]

TENSORS_SUFFICE = {"aten::mm": 2, "aten::addmm": 3, "aten::bmm": 2, "aten::baddbmm": 3}
"""Ops whose arguments up to the last that matters are so many tensors: theirs need not be kept. What comes after them is where
the result goes, as in the code that ``torch.compile`` writes."""

OVERWRITES = frozenset({f"aten::{name}_" for name in "copy fill zero normal uniform random bernoulli exponential".split()})
"""Ops that write to what they are given first and do not read it."""


def _formulas() -> dict[str, Any]:
    from torch.utils.flop_counter import flop_registry

    return {name: formula for packet, formula in flop_registry.items() if (name := getattr(packet, "_qualified_op_name", ""))}


def counted_ops() -> set[str]:
    """Names of the ops that have a formula."""
    return set(_formulas())


def ops_with_arguments() -> set[str]:
    """Names of those whose arguments a recording must keep."""
    return counted_ops() - TENSORS_SUFFICE.keys()


def has_formula(trace: Trace) -> npt.NDArray[np.bool_]:
    """Of each signature, whether its FLOPs are counted."""
    names = counted_ops()
    return np.array([trace.strings[name] in names for name in trace.signatures["name"].tolist()], dtype=np.bool_)


def signature_flops(trace: Trace) -> npt.NDArray[np.int64]:
    """FLOPs of one op of each signature; 0 where there is no formula, and where all its ops ran inside others that count.

    A formula that fails is named in a warning, and its ops count nothing.
    """
    formulas = _formulas()
    flops = np.zeros(len(trace.signatures), dtype=np.int64)
    for row in np.unique(_counted_signatures(trace)).tolist():
        signature = trace.signatures[row]
        name = trace.strings[signature["name"]]
        if name in formulas and signature["n_inputs"] and signature["n_outputs"]:  # what raised returned nothing
            try:
                flops[row] = _evaluate(trace, signature, formulas[name], TENSORS_SUFFICE.get(name))
            except Exception as error:
                warnings.warn(
                    f"the FLOP formula of {name} failed ({type(error).__name__}: {error}): these are counted as 0",
                    RuntimeWarning,
                    stacklevel=2,
                )
    return flops


def _counted_signatures(trace: Trace) -> npt.NDArray[np.uint32]:
    of_ops: npt.NDArray[np.uint32] = trace.ops["signature"][trace.ops["flags"] & OP_NESTED == 0]
    of_sums: npt.NDArray[np.uint32] = trace.op_totals["signature"][trace.op_totals["nested"] == 0]
    return np.concatenate([of_ops, of_sums])


def _evaluate(trace: Trace, signature: Any, formula: Any, tensors: int | None) -> int:
    inputs = _meta_tensors(trace, int(signature["inputs"]), int(signature["n_inputs"]))[:tensors]
    outputs = _meta_tensors(trace, int(signature["outputs"]), int(signature["n_outputs"]))
    if signature["arguments"] != NO_ARGUMENTS:
        inputs = _filled(json.loads(trace.strings[signature["arguments"]]), inputs)
        outputs = _filled(json.loads(trace.strings[signature["results"]]), outputs)
    result = outputs[0] if len(outputs) == 1 else tuple(outputs)
    return int(formula(*inputs, out_val=result))


def _meta_tensors(trace: Trace, first: int, count: int) -> list[Any]:
    """Stand-ins: formulas ask tensors for their shape, some for their dtype."""
    import torch

    made = []
    for row in trace.operands[first : first + count].tolist():
        tensor = trace.tensors[row]
        dtype = getattr(torch, DTYPE_NAMES[tensor["dtype"]], torch.float32)
        made.append(torch.empty(trace.shape(int(tensor["shape"])), dtype=dtype, device="meta"))
    return made


def _filled(arguments: Any, tensors: Sequence[Any]) -> list[Any]:
    """Arguments with a tensor in place of every ``{}``."""
    remaining = iter(tensors)

    def fill(value: Any) -> Any:
        if isinstance(value, dict):
            return next(remaining)
        return [fill(item) for item in value] if isinstance(value, list) else value

    filled: list[Any] = fill(arguments)
    return filled


def counted_flops(trace: Trace, signature: Rows, nested: Flags) -> npt.NDArray[np.int64]:
    """FLOPs of single ops with these signatures: 0 for one inside another that counts."""
    return np.where(nested, 0, signature_flops(trace)[signature])


def counted_bytes(trace: Trace, signature: Rows, nested: Flags, wrapper: Flags) -> npt.NDArray[np.int64]:
    """Bytes read and written by single ops with these signatures: those of one that leaves the work to others are theirs."""
    left_to_others = nested | (wrapper & ~has_formula(trace)[signature])
    return np.where(left_to_others, 0, signature_bytes(trace).sum(axis=1)[signature])


def signature_bytes(trace: Trace) -> npt.NDArray[np.int64]:
    """Bytes that one op of each signature reads and writes: an array of shape ``[signatures, 2]``."""
    numels = np.array([prod(trace.shape(row)) for row in range(len(trace.shapes))], dtype=np.int64)
    tensors, operands = trace.tensors, trace.operands
    if not len(operands):
        return np.zeros((len(trace.signatures), 2), dtype=np.int64)
    sizes = (numels[tensors["shape"]] * ITEMSIZES[np.clip(tensors["dtype"], 0, len(ITEMSIZES) - 1)])[operands]
    storages = tensors["storage"][operands]
    moved = np.zeros((len(trace.signatures), 2), dtype=np.int64)
    for row, (name, first_in, first_out, _, _, n_in, n_out) in enumerate(trace.signatures.tolist()):
        read = storages[first_in : first_in + n_in]
        written = storages[first_out : first_out + n_out]
        op = trace.strings[name]
        in_place = op.endswith("_")
        if op.startswith(("aten::empty", "aten::new_empty")):
            continue  # makes room, writes nothing
        if not in_place and (not n_out or (n_in and (written == read[0]).all())):
            continue  # a view, or nothing
        overwritten = 1 if op in OVERWRITES else 0
        moved[row, 0] = sizes[first_in + overwritten : first_in + n_in].sum()
        moved[row, 1] = sizes[first_out : first_out + n_out].sum()
    return moved
