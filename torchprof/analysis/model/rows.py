"""The rows of the summary: one for each module of the tree, with what its calls did.

A row is a place in the module tree, not a call: a module called three times is one row with ``calls == 3``, whose times and
bytes are sums, and whose shapes are those of the first call and any others that further calls had. Modules that were called
without being registered anywhere in the model come last under the module that called them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple, cast

from torchprof.analysis.model.call_figures import CallFigures
from torchprof.analysis.model.module_tree import ModuleNode, module_tree
from torchprof.analysis.model.notes import PARTLY, Notes
from torchprof.analysis.model.shards import NOT_SHARDED, ShardedTensor, shards_of
from torchprof.analysis.time.calls import CallCosts
from torchprof.trace.model import ModuleInfo, TensorInfo
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
        input_shapes, output_shapes: of every tensor of its first call (of the first that returned), in order. A size is an int
            (-1: the batch, with ``batch_size=-1``), ``"j"`` where it is ragged, or None where it is unknown; a str in place of
            a shape is the class of an object without tensors to be found, or ``raised`` where no call returned.
        output_bytes: bytes of the outputs of all calls: of their elements, not of storages; None where they are unknown.
        params, trainable: elements of its own parameters; one shared with an earlier row is counted there.
        params_total: the same with everything below it.
        param_bytes: bytes of its own parameters, on this rank.
        buffer_bytes: bytes of its own buffers, on this rank.
        forward, forward_self: nanoseconds of host time in its calls, with and without the calls inside them.
        recompute: nanoseconds of host time in which it, or what is called inside, ran again inside backward.
        backward, backward_self: nanoseconds of host time in backward ops that differentiate its ops.
        device_forward, device_recompute, device_backward: nanoseconds of device time of the kernels these launched; 0 where
            none were seen.
        note: what a reader must know: not called, same module as another row, raised, compiled, ...
        flops, flops_backward: of its calls, and of the ops that differentiate theirs, with what is inside; None: unknown.
        flops_unknown, flops_backward_unknown: the ops in it whose FLOPs are unknown: with some, the figure is a lower bound.
        params_local: elements of its own parameters that this rank has; as ``params`` where they are not split between ranks.
        shards: of its own parameters that are DTensors, what this rank has, by name.
        copies: how many identical siblings this row stands for (see ``fold``).
        tensors: its own parameters.
        further_inputs, further_outputs: the other shapes that further calls had, each once, in order.
        output_dtypes: of every tensor that its first call returned, as in ``float32``.
        training: whether it is in train mode; None where that is not known.
        kernel_size: of a convolution or pooling; None where it has none.
        defined: where its class is, as ``/home/me/my_network.py:14``; None where that is not known.
        inputs_in_objects, outputs_in_objects: how many of these shapes, the last of them, are of tensors in objects that are no
            containers, such as a cache.
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
    defined: str | None = None
    inputs_in_objects: int = 0
    outputs_in_objects: int = 0
    failed: bool = False
    flops: int | None = 0
    flops_backward: int | None = 0
    flops_unknown: tuple[str, ...] = ()
    flops_backward_unknown: tuple[str, ...] = ()
    params_local: int = 0
    shards: Mapping[str, ShardedTensor] = NOT_SHARDED


def module_rows(trace: Trace, costs: CallCosts) -> list[Row]:
    """The rows of a trace that was recorded with a model; the model itself comes first."""
    return _Rows(trace, costs).of(module_tree(trace)[0])


SUMMED_BELOW: Final = "forward recompute backward device_forward device_recompute device_backward".split()
"""A container that is not called itself, such as ModuleList, has the sums of what is in it."""


class _Rows:
    """Turns the nodes of the module tree into rows."""

    def __init__(self, trace: Trace, costs: CallCosts) -> None:
        assert trace.model is not None
        self.modules = trace.model.modules
        self.shards = shards_of(trace)
        self.figures = CallFigures(trace, costs)
        self.notes = Notes(trace, self.figures.recomputed, self.figures.raised)

    def of(self, root: ModuleNode) -> list[Row]:
        rows: list[Row | None] = []
        self._add(root, "", rows)
        return cast("list[Row]", rows)

    def _add(self, node: ModuleNode, opaque: str, rows: list[Row | None]) -> Row:
        """Append the row of a node and those below it."""
        info = node.info
        at = len(rows)
        rows.append(None)  # parents stand before what they are made of
        below: list[Row] = []
        if node.children:
            inside = opaque or (info.opaque if info is not None else "") or (PARTLY if self.notes.compiles(node) else "")
            below = [self._add(child, inside, rows) for child in node.children]
        fields = self.figures.of(node.calls) if node.calls else self._of_container(below)
        calls = self.figures.in_forward(node.calls)
        called = bool(calls) or any([row.calls or row.forward for row in below])
        if info is not None:
            fields.update(_own_tensors(info, self.shards.get(info.path, NOT_SHARDED)))
            module = self.modules[info.same_as] if info.same_as >= 0 else info
            fields.update(training=module.training, kernel_size=module.kernel_size, defined=module.defined)
        rows[at] = row = Row(
            node.path,
            node.name,
            node.type,
            node.depth,
            note=self.notes.of(node, calls, opaque, called),
            params_total=fields.get("params", 0) + sum([row.params_total for row in below]),
            **fields,
        )
        return row

    def _of_container(self, below: list[Row]) -> dict[str, Any]:
        fields: dict[str, Any] = {name: sum([getattr(row, name) for row in below]) for name in SUMMED_BELOW} if below else {}
        for flops in ("flops", "flops_backward"):
            unknown = {name for row in below for name in getattr(row, f"{flops}_unknown")}
            fields.update(self.figures.flops(flops, sum([getattr(row, flops) or 0 for row in below]), unknown))
        return fields


def _own_tensors(info: ModuleInfo, shards: Mapping[str, ShardedTensor]) -> dict[str, Any]:
    """Parameters and buffers; one that is shared belongs to the first module that has it."""
    params = params_local = trainable = param_bytes = 0
    for tensor in info.parameters:
        if tensor.owner is None:
            here = shards.get(tensor.name) if shards else None
            params += tensor.numel
            params_local += tensor.numel if here is None else here.numel
            param_bytes += tensor.bytes if here is None else here.bytes
            if tensor.trainable:
                trainable += tensor.numel
    buffer_bytes = sum([tensor.bytes for tensor in info.buffers if tensor.owner is None]) if info.buffers else 0
    return {
        "params": params,
        "params_local": params_local,
        "trainable": trainable,
        "param_bytes": param_bytes,
        "buffer_bytes": buffer_bytes,
        "tensors": info.parameters,
        "shards": {tensor.name: shards[tensor.name] for tensor in info.parameters if tensor.name in shards} or NOT_SHARDED,
    }
