"""Ops that find out a shape and compute nothing.

The first time an op of a DTensor meets its arguments, PyTorch runs it on meta too, at the shape of the whole. That is no work
of the program. Where all of a program is on meta, as in an estimate, what an op of a DTensor runs there is its work.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from torchprof.trace.schema import OP_NESTED, TENSOR_WRAPPER, Rows

__all__ = ["leave_out_shape_runs"]

META = 14
"""The number of the device ``meta`` in a trace."""


def leave_out_shape_runs(tables: Mapping[str, Rows]) -> None:
    """Set ``OP_NESTED`` of ops on meta inside an op on a tensor that wraps another and is not on meta: they count nothing.

    It is one that does its work elsewhere: inside it, the same op runs on tensors that wrap none and are not on meta.
    """
    tensors, signatures, operands = tables["tensors"], tables["signatures"], tables["operands"]
    on_meta = tensors["device_type"] == META
    wraps = (tensors["flags"] & TENSOR_WRAPPER != 0) & ~on_meta
    if not (wraps.any() and on_meta.any()):
        return
    real = (tensors["flags"] & TENSOR_WRAPPER == 0) & ~on_meta
    of_meta, of_wrappers, of_real = (_any_input(each, signatures, operands) for each in (on_meta, wraps, real))
    ops = tables["ops"]
    signature, parents = ops["signature"], ops["parent"].tolist()
    names = signatures["name"][signature].tolist()
    is_wrapper = of_wrappers[signature].tolist()
    worked: set[tuple[int, int]] = set()
    for row in np.flatnonzero((of_real & ~of_meta & ~of_wrappers)[signature]).tolist():
        around = parents[row]
        while around >= 0:
            if is_wrapper[around]:
                worked.add((around, names[row]))
            around = parents[around]
    found: set[int] = set()
    for row in np.flatnonzero(of_meta[signature]).tolist():
        parent = parents[row]
        if parent >= 0 and (parent in found or (is_wrapper[parent] and (parent, names[row]) in worked)):
            found.add(row)
    ops["flags"][list(found)] |= OP_NESTED


def _any_input(tensors: Rows, signatures: Rows, operands: Rows) -> Rows:
    """Of each signature, whether one of its inputs is among these tensors."""
    before = np.concatenate([[0], np.cumsum(tensors[operands])])
    first = signatures["inputs"].astype(np.int64)
    many: Rows = before[first + signatures["n_inputs"]] > before[first]
    return many
