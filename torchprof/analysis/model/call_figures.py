"""What the calls of a module did: shapes, bytes, times and FLOPs, as fields of its row."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

from torchprof.analysis.gpu.kernels import call_kernel_times
from torchprof.analysis.model.callers import is_recomputed
from torchprof.analysis.model.flops import call_flops, counts_flops
from torchprof.analysis.model.notes import RAISED
from torchprof.analysis.tensors import tensor_bytes, tensor_shapes
from torchprof.analysis.time.calls import CallCosts
from torchprof.trace.schema import CALL_RAISED, TENSOR_IN_OBJECT
from torchprof.trace.shapes import Operand
from torchprof.trace.trace import Trace

__all__ = ["CallFigures"]

Ranges = list[tuple[int, int]]
"""Of every call, where its tensors stand in ``trace.operands``, and how many there are."""


class CallFigures:
    """The figures of the calls of a trace.

    Attributes:
        recomputed: calls that ran inside backward, by activation checkpointing.
        raised: calls that raised an exception.
    """

    def __init__(self, trace: Trace, costs: CallCosts) -> None:
        calls = trace.module_calls
        self.recomputed = frozenset(np.flatnonzero(is_recomputed(trace)).tolist())
        self.raised = frozenset(np.flatnonzero(calls["flags"] & CALL_RAISED != 0).tolist())
        self._inputs: Ranges = list(zip(calls["inputs"].tolist(), calls["n_inputs"].tolist(), strict=True))
        self._outputs: Ranges = list(zip(calls["outputs"].tolist(), calls["n_outputs"].tolist(), strict=True))
        self._read_operands(trace)

        def once(values: Any) -> list[int]:
            """A module that calls itself is not counted twice."""
            counted: list[int] = np.where(costs.outermost, values, 0).tolist()
            return counted

        self._of_forward = {"forward": once(costs.forward), "forward_self": costs.forward_self.tolist()}
        device_forward, device_recompute, device_backward = map(once, call_kernel_times(trace))
        self._of_all = {
            "recompute": once(costs.recompute),
            "backward": once(costs.backward),
            "backward_self": costs.backward_self.tolist(),
            "device_forward": device_forward,
            "device_recompute": device_recompute,
            "device_backward": device_backward,
        }
        flops = call_flops(trace)
        self._counts_flops = counts_flops(trace)
        self._flops = {
            "flops": (once(flops.forward), flops.forward_unknown),
            "flops_backward": (once(flops.backward), flops.backward_unknown),
        }

    def _read_operands(self, trace: Trace) -> None:
        shapes = tensor_shapes(trace)
        self._shapes = [shapes[row] for row in trace.operands.tolist()]
        for row, dimension in trace.facts.get("batch_dimensions", ()):
            shape = self._shapes[row]
            self._shapes[row] = (*shape[:dimension], -1, *shape[dimension + 1 :])
        names = {number: trace.dtypes[number].name for number in np.unique(trace.tensors["dtype"]).tolist()}
        self._dtypes = [names[number] for number in trace.tensors["dtype"][trace.operands].tolist()]
        self._in_object = (trace.tensors["flags"][trace.operands] >= TENSOR_IN_OBJECT).tolist()
        sizes = tensor_bytes(trace)[trace.operands]
        first = trace.module_calls["outputs"].astype(np.int64)
        last = first + trace.module_calls["n_outputs"]
        up_to, unknown = (np.append(0, np.cumsum(values)) for values in (np.nan_to_num(sizes), np.isnan(sizes)))
        self._output_bytes: list[int] = (up_to[last] - up_to[first]).astype(np.int64).tolist()
        self._unknown_outputs: list[int] = (unknown[last] - unknown[first]).tolist()

    def in_forward(self, calls: list[int]) -> list[int]:
        """These calls without those that ran again inside backward."""
        return [call for call in calls if call not in self.recomputed] if self.recomputed else calls

    def of(self, calls: list[int]) -> dict[str, Any]:
        """Fields of the `Row` of a module, from its rows of ``trace.module_calls``."""
        forward = self.in_forward(calls)
        fields: dict[str, Any] = {"calls": len(forward)}
        if forward:
            fields.update(self._of_tensors(forward))
            fields.update((name, _sum(values, forward)) for name, values in self._of_forward.items())
        fields.update((name, _sum(values, calls)) for name, values in self._of_all.items())
        for name, (counts, unknown) in self._flops.items():
            names = {op for call in calls for op in unknown.get(call, ())} if unknown else ()
            fields.update(self.flops(name, _sum(counts, calls), names))
        return fields

    def flops(self, name: str, count: int, unknown: Collection[str]) -> dict[str, Any]:
        """The fields of FLOPs: a number, a lower bound beside the ops whose FLOPs are unknown, or None."""
        if not self._counts_flops:
            return {name: None}
        return {name: count or None if unknown else count, f"{name}_unknown": tuple(sorted(unknown))}

    def _of_tensors(self, calls: list[int]) -> dict[str, Any]:
        """What the first call was given, what the first that returned gave, and in what others differ."""
        first, count = self._inputs[calls[0]]
        inputs = tuple(self._shapes[first : first + count])
        fields: dict[str, Any] = {"input_shapes": inputs, "inputs_in_objects": sum(self._in_object[first : first + count])}
        outputs: tuple[Operand, ...] = (RAISED,)
        returned = [call for call in calls if call not in self.raised] if self.raised else calls
        if returned:
            first, count = self._outputs[returned[0]]
            outputs = tuple(self._shapes[first : first + count])
            fields["outputs_in_objects"] = sum(self._in_object[first : first + count])
            fields["output_dtypes"] = tuple(self._dtypes[first : first + count])
        fields["output_shapes"] = outputs
        fields["output_bytes"] = _sum(self._output_bytes, calls) if not _sum(self._unknown_outputs, calls) else None
        if len(calls) > 1:
            fields["further_inputs"] = self._further(self._inputs, calls, inputs)
            fields["further_outputs"] = self._further(self._outputs, calls, outputs)
        return fields

    def _further(self, ranges: Ranges, calls: list[int], first: tuple[Operand, ...]) -> tuple[tuple[Operand, ...], ...]:
        """The shapes that calls had and the first had not, each once. A call without any says nothing of shapes."""
        found = (tuple(self._shapes[at : at + count]) for at, count in (ranges[call] for call in calls))
        return tuple(shapes for shapes in dict.fromkeys(found) if shapes and shapes != first)


def _sum(values: list[int], rows: list[int]) -> int:
    return values[rows[0]] if len(rows) == 1 else sum([values[row] for row in rows])
