"""Traces of training loops written by hand, of which two can be compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from handwritten import FORWARD, module, parameter, trace

from torchprof.trace.model import Model
from torchprof.trace.trace import Trace

OWN = 10
"""Nanoseconds of the model itself in every step."""
LAYERS = {"fc": "Linear", "act": "ReLU"}


def run(
    steps: Sequence[Mapping[str, int]],
    layers: Mapping[str, str] | None = None,
    sizes: Mapping[str, int] | None = None,
    *,
    rest: int = 0,
    batch: int = 8,
    **facts: Any,
) -> Trace:
    """Steps of ``Net``, which calls its layers one after the other: for each step, the nanoseconds of every layer.

    In every layer runs one op, ``aten::`` and the name of the class, for all of the time, of as many FLOPs as the layer has
    parameters, times the batch. Beside the layers, a step takes ``OWN`` in ``Net`` and ``rest`` outside.

    Args:
        layers: classes by name.
        sizes: parameters of layers; 4 where it is not said.
    """
    layers = LAYERS if layers is None else layers
    size_of = {name: (sizes or {}).get(name, 4) for name in layers}
    infos = [module("", "Net", -1, 100)]
    infos += [
        module(name, type, 0, 101 + row, parameters=(parameter("weight", size_of[name]),))
        for row, (name, type) in enumerate(layers.items())
    ]
    strings = ["Net", *layers.values(), *(f"aten::{type.lower()}" for type in layers.values())]
    signatures = [
        {"name": 1 + len(layers) + row, "inputs": 0, "n_inputs": 1, "flops": size_of[name] * batch}
        for row, name in enumerate(layers)
    ]
    calls: list[dict[str, Any]] = []
    ops: list[dict[str, Any]] = []
    of_steps: list[dict[str, Any]] = []
    at = 0
    for number, times in enumerate(steps):
        start, root = at, len(calls)
        calls.append({"start": at, "inputs": 0, "n_inputs": 1, "module": 0})
        at += OWN
        for row, name in enumerate(layers):
            calls.append({"start": at, "end": at + times[name], "module": 1 + row, "parent": root})
            ops.append(
                {"signature": row, "start": at, "end": at + times[name], "module_call": len(calls) - 1, "flags": FORWARD}
            )
            at += times[name]
        calls[root]["end"] = at
        at += rest
        of_steps.append({"start": start, "end": at, "number": number})
    return trace(
        model=Model(tuple(infos)),
        strings=strings,
        shapes=[(batch, 4)],
        tensors=[{"shape": 0, "dtype": 6, "storage": 1}],
        operands=[0],
        signatures=signatures,
        modules=[{"address": 100 + row, "type": row} for row in range(1 + len(layers))],
        module_calls=calls,
        ops=ops,
        steps=of_steps,
        facts={"duration_ns": at, "memory": False, **facts},
    )
