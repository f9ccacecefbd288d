"""Traces of one step on a GPU, written as the kernels that its ops launched one after the other."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from handwritten import module, trace

import torchprof
from torchprof.trace.model import Model
from torchprof.trace.schema import Activity, Phase, RuntimeCallKind

INT64, FLOAT16, FLOAT32 = 4, 5, 6
US: Final = 1000


class Launch(NamedTuple):
    """An op that launches a kernel.

    Attributes:
        op, kernel: their names; the op may be empty.
        us: microseconds of the kernel.
        shapes: of the inputs of the op.
        path: of the module that it runs in: a module below the model; empty for none.
        dtype: of all inputs.
        at: when the kernel starts, in microseconds; after the one before where it is not given.
    """

    op: str
    kernel: str
    us: int
    shapes: tuple[tuple[int, ...], ...] = ()
    path: str = ""
    phase: Phase = Phase.FORWARD
    dtype: int = FLOAT16
    stream: int = 7
    at: int = -1


def gpu_step(*launches: Launch, us: int = 1000, **facts: Any) -> torchprof.Trace:
    """A step of so many microseconds."""
    paths = list(dict.fromkeys(launch.path for launch in launches if launch.path))
    strings = list(dict.fromkeys(["Net", "Layer", "cudaLaunchKernel", *(name for each in launches for name in each[:2])]))
    shapes = list(dict.fromkeys(shape for launch in launches for shape in launch.shapes)) or [()]
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in ("ops", "signatures", "tensors", "kernels", "runtime_calls")}
    time = 0
    for at, launch in enumerate(launches):
        begin = (launch.at if launch.at >= 0 else time) * US
        time = max(time, begin // US + launch.us)
        call = paths.index(launch.path) if launch.path else -1
        op = -1
        if launch.op:
            op = len(rows["ops"])
            operands = {"inputs": len(rows["tensors"]), "n_inputs": len(launch.shapes)}
            rows["signatures"].append({"name": strings.index(launch.op), **operands})
            times = {"start": at, "end": at + 1}
            rows["ops"].append({"signature": op, "module_call": call, "flags": int(launch.phase) << 4, **times, **operands})
            rows["tensors"] += [
                {"shape": shapes.index(shape), "dtype": launch.dtype, "device_type": 1, "storage": 1} for shape in launch.shapes
            ]
        owner = {"op": op, "module_call": call, "phase": int(launch.phase)}
        rows["runtime_calls"].append({"name": 2, "start": at, "end": at + 1, "kind": RuntimeCallKind.LAUNCH, **owner})
        kernel = {"name": strings.index(launch.kernel), "start": begin, "end": begin + launch.us * US, "stream": launch.stream}
        rows["kernels"].append({**kernel, "runtime_call": at, "kind": Activity.KERNEL, **owner})
    model = Model((module("", "Net", -1, 100), *(module(path, "Layer", 0, 101 + row) for row, path in enumerate(paths))))
    return trace(
        model=model,
        strings=strings,
        shapes=shapes,
        operands=list(range(len(rows["tensors"]))),
        modules=[{"address": 101 + row, "type": 1} for row in range(len(paths))],
        module_calls=[{"start": 0, "end": us * US, "module": row} for row in range(len(paths))],
        steps=[{"start": 0, "end": us * US, "busy": time * US, "kernels": len(launches), "forward": 1}],
        facts={"duration_ns": us * US, "gpu": "cupti", **facts},
        **rows,
    )
