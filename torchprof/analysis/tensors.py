"""Shapes and bytes of the tensors of a trace, by row of ``trace.tensors``."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from torchprof.trace.schema import TENSOR_NOT_DENSE, TENSOR_OBJECT, TENSOR_WRAPPER
from torchprof.trace.shapes import Operand, numel
from torchprof.trace.trace import Trace

__all__ = ["tensor_bytes", "tensor_shape", "tensor_shapes"]

_SAYS_ITS_BYTES = TENSOR_NOT_DENSE | TENSOR_WRAPPER | TENSOR_OBJECT


def tensor_bytes(trace: Trace) -> npt.NDArray[np.float64]:
    """What the elements of every tensor take; NaN where that is unknown.

    Of a dense tensor these are elements x element size, of a sparse one indices and values, of a nested one the elements of
    the tensors in it, of a subclass around other tensors what these take.
    """
    tensors = trace.tensors
    counts = [numel(trace.shape(row)) for row in range(len(trace.shapes))]
    elements = np.array([np.nan if count is None else count for count in counts], dtype=np.float64)
    if not len(elements):
        return np.full(len(tensors), np.nan)
    by_shape = elements[tensors["shape"]] * trace.dtypes.itemsizes(tensors["dtype"])
    said = np.where(tensors["bytes"] >= 0, tensors["bytes"], np.nan)
    return np.where(tensors["flags"] & _SAYS_ITS_BYTES, said, by_shape)


def tensor_shapes(trace: Trace) -> list[Operand]:
    """The shape of every tensor; of an object that is none, the name of its class."""
    shapes = [trace.shape(row) for row in range(len(trace.shapes))]
    found: list[Operand] = [shapes[row] for row in trace.tensors["shape"].tolist()]
    for row in np.flatnonzero(trace.tensors["flags"] & TENSOR_OBJECT).tolist():
        found[row] = trace.strings[int(trace.tensors["storage"][row])]
    return found


def tensor_shape(trace: Trace, row: int) -> Operand:
    """The same of one tensor."""
    tensor = trace.tensors[row]
    if tensor["flags"] & TENSOR_OBJECT:
        return trace.strings[int(tensor["storage"])]
    return trace.shape(int(tensor["shape"]))
