"""The rows of the summary: one for each module of the tree, with what its calls did.

A row is a place in the module tree, not a call: a module called three times is one row with ``calls == 3``, whose times and
bytes are sums and whose shapes are those of the first call. Modules that were called without being registered anywhere in the
model come last under the module that called them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from math import prod

import numpy as np

from torchprof.analysis.calls import call_costs
from torchprof.analysis.memory import memory_between, real_and_meta
from torchprof.modules import ModuleInfo, TensorInfo
from torchprof.trace import CALL_RAISED, CALL_RETURNED_SEQUENCE, DTYPE_NAMES, ITEMSIZES, Trace

__all__ = ["LayerCall", "Row", "Totals", "layer_calls", "raising_call", "rows_and_totals"]

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """One module.

    Attributes:
        path: dotted name within the model; empty for the root.
        name, type: last part of the path, and class.
        depth: 0 for the root.
        calls: how often it was called.
        input_shapes, output_shapes: of every tensor of its first call, in order.
        output_bytes: logical bytes (elements x element size) of the outputs of all calls.
        params, trainable: elements of its own parameters; one shared with an earlier row is counted there.
        params_total: the same with everything below it.
        param_bytes: bytes of its own parameters.
        buffers_bytes: bytes of its own buffers.
        forward, forward_self: nanoseconds of host time in its calls, with and without the calls inside them.
        backward, backward_self: nanoseconds of host time in backward ops that differentiate its ops.
        note: what a reader must know: not called, same module as another row, runs inside TorchScript, ...
        count: how many identical siblings this row stands for (see `fold`).
        tensors: its own parameters.
    """

    path: str
    name: str
    type: str
    depth: int
    calls: int = 0
    input_shapes: tuple[Shape, ...] = ()
    output_shapes: tuple[Shape, ...] = ()
    output_bytes: int = 0
    params: int = 0
    trainable: int = 0
    params_total: int = 0
    param_bytes: int = 0
    buffer_bytes: int = 0
    forward: int = 0
    forward_self: int = 0
    backward: int = 0
    backward_self: int = 0
    note: str = ""
    count: int = 1
    tensors: tuple[TensorInfo, ...] = ()


@dataclass(frozen=True, slots=True)
class Totals:
    """The model as a whole. Bytes are exact; times are host nanoseconds of one run.

    Attributes:
        params, trainable, frozen: elements, each shared parameter once.
        param_bytes_by_dtype, param_bytes_by_device: bytes of parameters by real dtype, and by device.
        buffer_bytes: bytes of buffers, each once.
        input_bytes: bytes of the input tensors.
        forward, backward: time of the passes; 0 where none ran.
        backward_unattributed: backward time that belongs to no module.
        allocated: everything forward allocated, freed or not.
        peak: the most that forward held at once beyond what was there before.
        peak_with_backward: the same for forward and backward together; 0 where no backward ran.
        saved: what autograd keeps for backward when forward is over: tensors that forward made and inputs it holds on to;
            parameters and buffers, which are there anyway, are not counted.
        memory: ``"measured"``, ``"meta"`` (what the run would have taken, counted on meta tensors) or ``"none"``.
        losses: rows the recording had no room for, by table.
    """

    params: int = 0
    trainable: int = 0
    frozen: int = 0
    param_bytes_by_dtype: dict[str, int] = field(default_factory=dict)
    param_bytes_by_device: dict[str, int] = field(default_factory=dict)
    buffer_bytes: int = 0
    input_bytes: int = 0
    forward: int = 0
    backward: int = 0
    backward_unattributed: int = 0
    allocated: int = 0
    peak: int = 0
    peak_with_backward: int = 0
    saved: int = 0
    memory: str = "none"
    losses: dict[str, int] = field(default_factory=dict)

    @property
    def param_bytes(self) -> int:
        return sum(self.param_bytes_by_dtype.values())


class _Place:
    """A row while it is being put together."""

    __slots__ = ("calls", "children", "dynamic", "info", "row")

    def __init__(self, info: ModuleInfo | None, row: Row) -> None:
        self.info = info
        self.row = row
        self.children: list[_Place] = []
        self.calls: list[int] = []
        self.dynamic: dict[tuple[int, str], _Place] = {}


def rows_and_totals(trace: Trace) -> tuple[list[Row], Totals]:
    """The summary of a trace that was recorded with a model."""
    if trace.model is None:
        raise ValueError("the trace was recorded without a model: pass it to torchprof.profile(model)")
    root = _places(trace)
    _fill(root, trace)
    return [place.row for place in _walk(root)], _totals(trace)


def _places(trace: Trace) -> _Place:
    """The module tree, with every call put to its place."""
    assert trace.model is not None
    infos = trace.model.modules
    places = [_Place(info, Row(info.path, info.name, info.type, info.depth)) for info in infos]
    for info, place in zip(infos, places, strict=True):
        if info.parent >= 0:
            places[info.parent].children.append(place)

    by_address = {info.address: row for row, info in enumerate(infos) if info.same_as < 0}
    modules = trace.modules.tolist()
    place_of_call: list[_Place | None] = []
    for row, (module, parent) in enumerate(
        zip(trace.module_calls["module"].tolist(), trace.module_calls["parent"].tolist(), strict=True)
    ):
        address, type_name = modules[module][0], trace.strings[modules[module][1]]
        known = by_address.get(address)
        place: _Place | None
        if known is not None:
            place = places[known]
        else:  # a module that is registered nowhere: made inside forward, or kept in a plain list
            caller = place_of_call[parent] if parent >= 0 else None
            place = None if caller is None else caller.dynamic.get((address, type_name))
            if caller is not None and place is None:
                path = f"{caller.row.path}.<{type_name}>".lstrip(".")
                new = Row(path, f"<{type_name}>", type_name, caller.row.depth + 1, note="not registered in the model")
                place = caller.dynamic[address, type_name] = _Place(None, new)
                caller.children.append(place)
        if place is not None:
            place.calls.append(row)
        place_of_call.append(place)
    return places[0]


def _fill(root: _Place, trace: Trace) -> None:
    """Turn calls into figures, children before parents."""
    costs = call_costs(trace)
    shapes = [trace.shape(row) for row in range(len(trace.shapes))]
    tensor_shapes = [shapes[row] for row in trace.tensors["shape"].tolist()]
    numels = np.array([prod(shape) for shape in shapes], dtype=np.int64)
    itemsizes = ITEMSIZES[np.clip(trace.tensors["dtype"], 0, len(ITEMSIZES) - 1)]
    tensor_bytes = (numels[trace.tensors["shape"]] * itemsizes).tolist() if len(trace.tensors) else []
    operands = trace.operands
    columns = ("inputs", "n_inputs", "outputs", "n_outputs")
    spans = list(zip(*(trace.module_calls[column].tolist() for column in columns), strict=True))
    forward = np.where(costs.outermost, costs.forward, 0).tolist()
    backward = np.where(costs.outermost, costs.backward, 0).tolist()
    forward_self, backward_self = costs.forward_self.tolist(), costs.backward_self.tolist()
    assert trace.model is not None
    infos = trace.model.modules

    def fill(place: _Place, opaque: str) -> None:
        info, calls = place.info, place.calls
        inside = opaque or (info.opaque if info is not None else "")
        for child in place.children:
            fill(child, inside)
        children = [child.row for child in place.children]
        own = [p for p in info.parameters if p.owner is None] if info is not None else []
        params = sum(p.numel for p in own)
        note = place.row.note
        shared = [p for p in info.parameters if p.owner is not None] if info is not None else []
        if info is not None and info.same_as >= 0:
            note = f"same module as {infos[info.same_as].path or 'the root'}"
        elif shared:
            note = f"{', '.join(p.name for p in shared)} shared with {shared[0].owner or 'the root'}"
        called_inside = any(child.calls or child.forward for child in children)
        if not calls and not called_inside and (info is None or info.same_as < 0) and spans:
            note = (note + "; " if note else "") + (f"runs inside {_OPAQUE[opaque]}" if opaque else "not called")
        inputs: tuple[Shape, ...] = ()
        outputs: tuple[Shape, ...] = ()
        if calls:
            first, count, out_first, out_count = spans[calls[0]]
            inputs = tuple(tensor_shapes[t] for t in operands[first : first + count].tolist())
            outputs = tuple(tensor_shapes[t] for t in operands[out_first : out_first + out_count].tolist())
        output_bytes = 0
        for call in calls:
            _, _, out_first, out_count = spans[call]
            output_bytes += sum(tensor_bytes[t] for t in operands[out_first : out_first + out_count].tolist())
        place.row = replace(
            place.row,
            calls=len(calls),
            input_shapes=inputs,
            output_shapes=outputs,
            output_bytes=output_bytes,
            params=params,
            trainable=sum(p.numel for p in own if p.trainable),
            params_total=params + sum(child.params_total for child in children),
            param_bytes=sum(p.bytes for p in own),
            buffer_bytes=sum(b.bytes for b in info.buffers if b.owner is None) if info is not None else 0,
            # A container that is not called itself (ModuleList) shows what is in it.
            forward=sum(forward[c] for c in calls) if calls else sum(child.forward for child in children),
            forward_self=sum(forward_self[c] for c in calls),
            backward=sum(backward[c] for c in calls) if calls else sum(child.backward for child in children),
            backward_self=sum(backward_self[c] for c in calls),
            note=note,
            tensors=info.parameters if info is not None else (),
        )

    fill(root, "")


_OPAQUE = {"TorchScript": "TorchScript", "compiled": "a compiled region"}


def _walk(place: _Place) -> Iterator[_Place]:
    yield place
    for child in place.children:
        yield from _walk(child)


def _totals(trace: Trace) -> Totals:
    assert trace.model is not None
    by_dtype: dict[str, int] = defaultdict(int)
    by_device: dict[str, int] = defaultdict(int)
    params = trainable = 0
    for parameter in trace.model.parameters():
        params += parameter.numel
        trainable += parameter.numel if parameter.trainable else 0
        by_dtype[parameter.dtype] += parameter.bytes
        by_device[parameter.device] += parameter.bytes
    totals = Totals(
        params=params,
        trainable=trainable,
        frozen=params - trainable,
        param_bytes_by_dtype=dict(by_dtype),
        param_bytes_by_device=dict(by_device),
        buffer_bytes=sum(buffer.bytes for buffer in trace.model.buffers()),
        input_bytes=trace.facts.get("input_bytes", 0),
        losses=trace.losses,
    )
    start, end = trace.mark("forward"), trace.mark("forward done")
    if start is None or end is None:
        return totals
    released, freed = trace.mark("outputs released"), trace.mark("graph released")
    backward, backward_done = trace.mark("backward"), trace.mark("backward done")
    totals = replace(
        totals,
        forward=end - start,
        backward=backward_done - backward if backward is not None and backward_done is not None else 0,
        backward_unattributed=call_costs(trace).backward_unattributed,
    )
    if not trace.facts.get("memory"):
        return totals
    real, meta = real_and_meta(trace)
    on_meta = by_device.keys() <= {"meta"} and trace.facts.get("inputs_on_meta", False)
    rows = meta if on_meta else real
    run = memory_between(rows, start, end)
    saved = trace.facts.get("saved_input_bytes", 0)
    if released is not None and freed is not None:
        saved += max(0, -memory_between(rows, released, freed).kept)
    return replace(
        totals,
        allocated=run.allocated,
        peak=run.peak,
        peak_with_backward=memory_between(rows, start, backward_done).peak if backward_done is not None else 0,
        saved=saved,
        memory="meta" if on_meta else "measured",
    )


@dataclass(frozen=True, slots=True)
class LayerCall:
    """One call of a module, in the order in which the calls ended: what a forward hook would have seen."""

    row: int
    address: int
    type: str
    returned_sequence: bool
    input_shapes: tuple[Shape, ...]
    output_shapes: tuple[Shape, ...]


def layer_calls(trace: Trace) -> list[LayerCall]:
    """Every finished call of a module."""
    calls = trace.module_calls
    finished = np.flatnonzero((calls["end"] >= 0) & ((calls["flags"] & CALL_RAISED) == 0))
    order = finished[np.lexsort((-finished, calls["end"][finished]))]
    result = []
    for row in order.tolist():
        call = calls[row]
        module = trace.modules[int(call["module"])]

        def shapes(first: int, count: int) -> tuple[Shape, ...]:
            rows = trace.operands[first : first + count]
            return tuple(trace.shape(int(trace.tensors["shape"][tensor])) for tensor in rows)

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


def raising_call(trace: Trace) -> tuple[str, str, tuple[str, ...]] | None:
    """Path, type and inputs (as ``float32[2, 3]``) of the innermost module whose call an exception left last."""
    calls = trace.module_calls
    raised = np.flatnonzero((calls["flags"] & CALL_RAISED) != 0)
    outer = raised[calls["parent"][raised] < 0]
    if not len(outer):
        return None
    row = int(outer[-1])
    while len(inner := raised[calls["parent"][raised] == row]):
        row = int(inner[-1])
    call = calls[row]
    address, type_row = trace.modules[int(call["module"])].item()[:2]
    infos = trace.model.modules if trace.model is not None else ()
    path = next((info.path for info in infos if info.address == address), "")
    first = int(call["inputs"])
    inputs = tuple(
        f"{DTYPE_NAMES[int(trace.tensors['dtype'][tensor])]}{list(trace.shape(int(trace.tensors['shape'][tensor])))}"
        for tensor in trace.operands[first : first + int(call["n_inputs"])]
    )
    return path, trace.strings[type_row], inputs
