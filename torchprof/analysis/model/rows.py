"""The rows of the summary: one for each module of the tree, with what its calls did.

A row is a place in the module tree, not a call: a module called three times is one row with ``calls == 3``, whose times and
bytes are sums, and whose shapes are those of the first call and any others that further calls had. Modules that were called
without being registered anywhere in the model come last under the module that called them.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import numpy as np

from torchprof.analysis.gpu.kernels import call_kernel_times
from torchprof.analysis.model.callers import is_recomputed
from torchprof.analysis.model.flops import call_flops, counts_flops
from torchprof.analysis.model.module_tree import ModuleNode, module_tree
from torchprof.analysis.tensors import tensor_bytes, tensor_shapes
from torchprof.analysis.time.calls import CallCosts
from torchprof.trace.model import UNKNOWN, TensorInfo
from torchprof.trace.schema import TENSOR_IN_OBJECT
from torchprof.trace.shapes import Operand
from torchprof.trace.trace import Trace

__all__ = ["Row", "module_rows"]


class Row(NamedTuple):
    """One module.

    Attributes:
        path: dotted name within the model; empty for the root.
        name, type: last part of the path, and class.
        depth: 0 for the root.
        calls: how often it was called in forward.
        input_shapes, output_shapes: of every tensor of its first call, in order. A size is an int (-1: the batch, with
            ``batch_size=-1``), ``"j"`` where it is ragged, or None where it is unknown; a str in place of a shape is the class
            of an object without tensors to be found.
        output_bytes: bytes of the outputs of all calls: of their elements, not of storages; None where they are unknown.
        params, trainable: elements of its own parameters; one shared with an earlier row is counted there.
        params_total: the same with everything below it.
        param_bytes: bytes of its own parameters.
        buffer_bytes: bytes of its own buffers.
        forward, forward_self: nanoseconds of host time in its calls, with and without the calls inside them.
        recompute: nanoseconds of host time in which it, or what is called inside, ran again inside backward.
        backward, backward_self: nanoseconds of host time in backward ops that differentiate its ops.
        device_forward, device_recompute, device_backward: nanoseconds of device time of the kernels these launched; 0 where
            none were seen.
        note: what a reader must know: not called, same module as another row, runs inside TorchScript, ...
        flops, flops_backward: of its calls, and of the ops that differentiate theirs, with what is inside; None: unknown.
        flops_unknown, flops_backward_unknown: the ops in it whose FLOPs are unknown: with some, the figure is a lower bound.
        copies: how many identical siblings this row stands for (see ``fold``).
        tensors: its own parameters.
        further_inputs, further_outputs: the other shapes that further calls had, each once, in order.
        output_dtypes: of every tensor that its first call returned, as in ``float32``.
        training: whether it is in train mode; None where that is not known.
        kernel_size: of a convolution or pooling; None where it has none.
        inputs_in_objects: how many of its inputs, the last of them, were in objects that are no containers, such as a cache.
        failed: whether the exception that ended the run came from here.
    """

    path: str
    name: str
    type: str
    depth: int
    calls: int = 0
    input_shapes: tuple[Operand, ...] = ()
    output_shapes: tuple[Operand, ...] = ()
    output_bytes: int | None = 0
    params: int = 0
    trainable: int = 0
    params_total: int = 0
    param_bytes: int = 0
    buffer_bytes: int = 0
    forward: int = 0
    forward_self: int = 0
    recompute: int = 0
    backward: int = 0
    backward_self: int = 0
    device_forward: int = 0
    device_recompute: int = 0
    device_backward: int = 0
    note: str = ""
    copies: int = 1
    tensors: tuple[TensorInfo, ...] = ()
    further_inputs: tuple[tuple[Operand, ...], ...] = ()
    further_outputs: tuple[tuple[Operand, ...], ...] = ()
    output_dtypes: tuple[str, ...] = ()
    training: bool | None = None
    kernel_size: int | tuple[int, ...] | None = None
    inputs_in_objects: int = 0
    failed: bool = False
    flops: int | None = 0
    flops_backward: int | None = 0
    flops_unknown: tuple[str, ...] = ()
    flops_backward_unknown: tuple[str, ...] = ()


def module_rows(trace: Trace, costs: CallCosts) -> list[Row]:
    """The rows of a trace that was recorded with a model; the model itself comes first."""
    return _Rows(trace, costs).of(module_tree(trace)[0])


class _Rows:
    """Turns the nodes of the module tree into rows."""

    def __init__(self, trace: Trace, costs: CallCosts) -> None:
        assert trace.model is not None
        calls = trace.module_calls
        shapes = tensor_shapes(trace)
        self.modules = trace.model.modules
        self.ran = len(calls) > 0
        self.again = frozenset(np.flatnonzero(is_recomputed(trace)).tolist())
        self.operand_shapes = [shapes[row] for row in trace.operands.tolist()]
        names = {number: trace.dtypes[number].name for number in np.unique(trace.tensors["dtype"]).tolist()}
        self.operand_dtypes = [names[number] for number in trace.tensors["dtype"][trace.operands].tolist()]
        for row, dimension in trace.facts.get("batch_dimensions", ()):
            shape = self.operand_shapes[row]
            self.operand_shapes[row] = (*shape[:dimension], -1, *shape[dimension + 1 :])
        self.in_object = (trace.tensors["flags"][trace.operands] >= TENSOR_IN_OBJECT).tolist()
        sizes = tensor_bytes(trace)[trace.operands]
        first, last = calls["outputs"].astype(np.int64), calls["outputs"].astype(np.int64) + calls["n_outputs"]
        up_to, unknown = (np.append(0, np.cumsum(values)) for values in (np.nan_to_num(sizes), np.isnan(sizes)))
        self.output_bytes: list[int] = (up_to[last] - up_to[first]).astype(np.int64).tolist()
        self.unknown_outputs: list[int] = (unknown[last] - unknown[first]).tolist()
        self.inputs = list(zip(calls["inputs"].tolist(), calls["n_inputs"].tolist(), strict=True))
        self.outputs = list(zip(calls["outputs"].tolist(), calls["n_outputs"].tolist(), strict=True))
        # A module that calls itself is not counted twice.
        self.forward = np.where(costs.outermost, costs.forward, 0).tolist()
        self.recompute = np.where(costs.outermost, costs.recompute, 0).tolist()
        self.backward = np.where(costs.outermost, costs.backward, 0).tolist()
        self.device = [np.where(costs.outermost, time, 0).tolist() for time in call_kernel_times(trace)]
        flops = call_flops(trace)
        self.counts_flops = counts_flops(trace)
        self.flops = [np.where(costs.outermost, count, 0).tolist() for count in (flops.forward, flops.backward)]
        self.flops_unknown = flops.forward_unknown, flops.backward_unknown
        self.forward_self, self.backward_self = costs.forward_self.tolist(), costs.backward_self.tolist()

    def of(self, root: ModuleNode) -> list[Row]:
        rows: list[Row | None] = []
        self._add(root, "", rows)
        return cast("list[Row]", rows)

    def _add(self, node: ModuleNode, opaque: str, rows: list[Row | None]) -> Row:
        """Append the row of a node and those below it."""
        info, every_call = node.info, node.calls
        calls = [call for call in every_call if call not in self.again] if self.again else every_call
        at = len(rows)
        rows.append(None)  # parents stand before what they are made of
        below: list[Row] = []
        params_below = 0
        called = bool(calls)
        if node.children:
            inside = opaque or (info.opaque if info is not None else "")
            below = [self._add(child, inside, rows) for child in node.children]
            params_below = sum([row.params_total for row in below])
            called = called or any([row.calls or row.forward for row in below])
        inputs: tuple[Operand, ...] = ()
        outputs: tuple[Operand, ...] = ()
        output_bytes: int | None = 0
        forward = forward_self = recompute = backward = backward_self = 0
        device_forward = device_recompute = device_backward = 0
        in_objects = 0
        further_inputs: tuple[tuple[Operand, ...], ...] = ()
        further_outputs: tuple[tuple[Operand, ...], ...] = ()
        dtypes: tuple[str, ...] = ()
        if calls:
            first, count = self.inputs[calls[0]]
            inputs = tuple(self.operand_shapes[first : first + count])
            in_objects = sum(self.in_object[first : first + count])
            first, count = self.outputs[calls[0]]
            outputs = tuple(self.operand_shapes[first : first + count])
            dtypes = tuple(self.operand_dtypes[first : first + count])
            if len(calls) > 1:
                further_inputs = self._further(self.inputs, calls, inputs)
                further_outputs = self._further(self.outputs, calls, outputs)
            output_bytes = _sum(self.output_bytes, calls) if not _sum(self.unknown_outputs, calls) else None
            forward, forward_self = _sum(self.forward, calls), _sum(self.forward_self, calls)
        if every_call:
            recompute = _sum(self.recompute, every_call)
            backward, backward_self = _sum(self.backward, every_call), _sum(self.backward_self, every_call)
            device_forward, device_recompute, device_backward = (_sum(times, every_call) for times in self.device)
        elif below:  # a container that is not called itself, such as ModuleList, shows what is in it
            forward = sum([row.forward for row in below])
            recompute = sum([row.recompute for row in below])
            backward = sum([row.backward for row in below])
            device_forward = sum([row.device_forward for row in below])
            device_recompute = sum([row.device_recompute for row in below])
            device_backward = sum([row.device_backward for row in below])
        flops = self._flops(every_call, below, 0)
        flops_backward = self._flops(every_call, below, 1)
        params = trainable = param_bytes = buffer_bytes = 0
        tensors: tuple[TensorInfo, ...] = ()
        if info is not None:
            tensors = info.parameters
            for tensor in tensors:
                if tensor.owner is None:
                    params += tensor.numel
                    param_bytes += tensor.bytes
                    if tensor.trainable:
                        trainable += tensor.numel
            for tensor in info.buffers:
                if tensor.owner is None:
                    buffer_bytes += tensor.bytes
        rows[at] = row = Row(
            node.path,
            node.name,
            node.type,
            node.depth,
            len(calls),
            inputs,
            outputs,
            output_bytes,
            params,
            trainable,
            params + params_below,
            param_bytes,
            buffer_bytes,
            forward,
            forward_self,
            recompute,
            backward,
            backward_self,
            device_forward,
            device_recompute,
            device_backward,
            self._note(node, opaque, called),
            1,
            tensors,
            further_inputs,
            further_outputs,
            dtypes,
            info.training if info is not None else None,
            info.kernel_size if info is not None else None,
            in_objects,
            False,
            flops[0],
            flops_backward[0],
            flops[1],
            flops_backward[1],
        )
        return row

    def _further(
        self, ranges: list[tuple[int, int]], calls: list[int], first: tuple[Operand, ...]
    ) -> tuple[tuple[Operand, ...], ...]:
        """The shapes that calls had and the first had not, each once. A call without any says nothing of shapes."""
        found = (tuple(self.operand_shapes[at : at + count]) for at, count in (ranges[call] for call in calls))
        return tuple(shapes for shapes in dict.fromkeys(found) if shapes and shapes != first)

    def _flops(self, calls: list[int], below: list[Row], which: int) -> tuple[int | None, tuple[str, ...]]:
        """FLOPs of forward (0) or backward (1), and the ops in it whose FLOPs are unknown."""
        if not self.counts_flops:
            return None, ()
        names: set[str] = set()
        if calls:
            count = _sum(self.flops[which], calls)
            if unknown := self.flops_unknown[which]:
                names.update(*(unknown[call] for call in calls if call in unknown))
        else:  # as other figures of a container that is not called itself
            pairs = [
                (row.flops_backward, row.flops_backward_unknown) if which else (row.flops, row.flops_unknown) for row in below
            ]
            count = sum([known or 0 for known, _ in pairs])
            names.update(*(unknown for _, unknown in pairs))
        return (count or None if names else count), tuple(sorted(names))

    def _note(self, node: ModuleNode, opaque: str, called: bool) -> str:
        info = node.info
        if info is None:
            return "not registered in the model"
        if info.same_as >= 0:
            return f"same module as {self.modules[info.same_as].path or 'the root'}"
        notes = []
        if info.parameters and (shared := [tensor for tensor in info.parameters if tensor.owner is not None]):
            notes.append(f"{', '.join(t.name for t in shared)} shared with {shared[0].owner or 'the root'}")
        if any([tensor.lazy for tensor in info.parameters]):
            notes.append("lazy: no shape before the first call")
        if any([tensor.dtype == UNKNOWN for tensor in info.parameters]):
            notes.append("params unknown: packed in an object that cannot be read")
        if info.opaque == "compiled" and called:
            notes.append("a first call compiles")
        if self.ran and not called:
            notes.append(f"runs inside {_OPAQUE[opaque]}" if opaque else "not called")
        return "; ".join(notes)


_OPAQUE = {"TorchScript": "TorchScript", "compiled": "a compiled region"}


def _sum(values: list[int], rows: list[int]) -> int:
    return values[rows[0]] if len(rows) == 1 else sum([values[row] for row in rows])
