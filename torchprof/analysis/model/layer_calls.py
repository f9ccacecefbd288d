"""Single calls of modules: what a forward hook would see, and the call that raised an exception."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from torchprof.analysis.model.module_tree import paths
from torchprof.analysis.tensors import tensor_shape, tensor_shapes
from torchprof.trace.schema import CALL_RAISED, CALL_RECOMPUTED, CALL_RETURNED_SEQUENCE
from torchprof.trace.shapes import Shape, shape_text
from torchprof.trace.trace import Trace

__all__ = ["LayerCall", "layer_calls", "raising_call"]


@dataclass(frozen=True, slots=True)
class LayerCall:
    """One call of a module: what a forward hook would see.

    Attributes:
        row: its row of ``trace.module_calls``.
        address, type: ``id()`` of the module, and the name of its class.
        returned_sequence: whether it returned a tuple or a list.
        input_shapes, output_shapes: of every tensor, in order; a size is ``"j"`` where it is ragged, None where unknown.
    """

    row: int
    address: int
    type: str
    returned_sequence: bool
    input_shapes: tuple[Shape, ...]
    output_shapes: tuple[Shape, ...]


def layer_calls(trace: Trace) -> list[LayerCall]:
    """Every call of a module in forward that returned, in the order in which they returned."""
    calls = trace.module_calls
    finished = np.flatnonzero((calls["end"] >= 0) & ((calls["flags"] & (CALL_RAISED | CALL_RECOMPUTED)) == 0))
    order = finished[np.lexsort((-finished, calls["end"][finished]))]
    of_tensors = tensor_shapes(trace)
    result = []
    for row in order.tolist():
        call = calls[row]
        module = trace.modules[int(call["module"])]

        def shapes(first: int, count: int) -> tuple[Shape, ...]:
            found = (of_tensors[tensor] for tensor in trace.operands[first : first + count].tolist())
            return tuple(shape for shape in found if not isinstance(shape, str))

        result.append(
            LayerCall(
                row,
                int(module["address"]),
                trace.strings[int(module["type"])],
                bool(call["flags"] & CALL_RETURNED_SEQUENCE),
                shapes(int(call["inputs"]), int(call["n_inputs"])),
                shapes(int(call["outputs"]), int(call["n_outputs"])),
            )
        )
    return result


def raising_call(trace: Trace, error: BaseException | None = None) -> tuple[str, str, tuple[str, ...]] | None:
    """Path, class and inputs (as ``float32[2, 3]``) of the innermost module of the last call that raised, if any did.

    With the exception, only of modules that it came through: others may have raised before, and what they raised was caught.
    """
    calls = trace.module_calls
    raised = np.flatnonzero((calls["flags"] & CALL_RAISED) != 0)
    if error is not None and (came_through := _objects_in_frames(error)):
        addresses = trace.modules["address"][calls["module"][raised]].tolist()
        raised = raised[[address in came_through for address in addresses]]
    outer = raised[calls["parent"][raised] < 0]
    if not len(outer):
        return None
    row = int(outer[-1])
    while len(inner := raised[calls["parent"][raised] == row]):
        row = int(inner[-1])
    call = calls[row]
    type_row = int(trace.modules["type"][int(call["module"])])
    path = paths(trace)[1][row]
    first = int(call["inputs"])
    inputs = tuple(_shown(trace, int(tensor)) for tensor in trace.operands[first : first + int(call["n_inputs"])])
    return path, trace.strings[type_row], inputs


def _shown(trace: Trace, tensor: int) -> str:
    """``float32[2, 3]``; of an object that is no tensor, its class."""
    dtype, shape = int(trace.tensors["dtype"][tensor]), shape_text(tensor_shape(trace, tensor))
    return f"{trace.dtypes[dtype].name}{shape}" if dtype >= 0 else shape


def _objects_in_frames(error: BaseException) -> set[int]:
    """``id()`` of the ``self`` of every function that an exception came through, and those that it was raised because of."""
    found: set[int] = set()
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        traceback = current.__traceback__
        while traceback is not None:
            if "self" in traceback.tb_frame.f_code.co_varnames:
                found.add(id(traceback.tb_frame.f_locals.get("self")))
            traceback = traceback.tb_next
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
    return found
