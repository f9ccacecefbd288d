"""Reads a trace the way a test wants to talk about it."""

from __future__ import annotations

from typing import Any

from torchprof.trace.schema import TENSOR_OBJECT
from torchprof.trace.shapes import Shape
from torchprof.trace.trace import Trace

Operand = tuple[str, Shape]


def op_names(trace: Trace) -> list[str]:
    return [trace.strings[row] for row in trace.op_names.tolist()]


def rows_named(trace: Trace, name: str) -> list[int]:
    return [row for row, found in enumerate(op_names(trace)) if found == name]


def operands(trace: Trace, first: int, count: int) -> list[Operand]:
    rows = trace.tensors[trace.operands[first : first + count]]
    tensors = rows[rows["flags"] & TENSOR_OBJECT == 0]
    return [(trace.dtypes[int(row["dtype"])].name, trace.shape(int(row["shape"]))) for row in tensors]


def inputs(trace: Trace, row: Any) -> list[Operand]:
    return operands(trace, int(row["inputs"]), int(row["n_inputs"]))


def outputs(trace: Trace, row: Any) -> list[Operand]:
    return operands(trace, int(row["outputs"]), int(row["n_outputs"]))


def path_of_call(trace: Trace, call: int) -> str:
    """Where in the model the module of this call is registered."""
    assert trace.model is not None
    address = trace.modules["address"][trace.module_calls["module"][call]]
    return next(info.path for info in trace.model.modules if info.address == address)
