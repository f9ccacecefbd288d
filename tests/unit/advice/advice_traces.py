"""Traces written by hand, for rules of advice."""

from __future__ import annotations

from typing import Any

from handwritten import FORWARD, trace

import torchprof
from torchprof.trace.schema import Activity, Direction, RuntimeCallKind

US = 1000
KERNELS = ("kernel", "Memcpy HtoD (Pageable -> Device)", "Memcpy HtoD (Pinned -> Device)")
STRINGS = ["aten::item", "aten::copy_", "aten::mm", "cudaStreamSynchronize", "cudaMalloc", "cudaLaunchKernel", *KERNELS]


def device_loop(
    waits: list[tuple[int, int]],
    kernels: list[tuple[int, int, int]],
    *,
    kind: str = "item",
    copy: str = KERNELS[1],
    data: tuple[int, int] | None = None,
    **facts: Any,
) -> torchprof.Trace:
    """Two equal steps of 1 ms.

    Args:
        waits: when the host begins and ends to wait, in microseconds of the step, in an op of its own: by ``kind`` in
            ``item()``; ``"to device"``, in a copy to it; ``"memory"``, in an allocation of the driver.
        kernels: start and end of each, and when its launch began.
        copy: what the copies to the device are named.
        data: when it begins and ends to wait for data.
    """
    ops: list[dict[str, Any]] = []
    calls: list[dict[str, Any]] = []
    launched: list[dict[str, Any]] = []
    for step in (0, 1):
        at = 1000 * US * step
        for begin, end in waits:
            name = {"item": 0, "to device": 1, "memory": 2}[kind]
            ops.append({"name": name, "start": at + begin * US, "end": at + end * US, "flags": FORWARD})
            call = {"memory": RuntimeCallKind.MEMORY}.get(kind, RuntimeCallKind.SYNCHRONIZE)
            row = {"name": 4 if kind == "memory" else 3, "kind": call, "op": len(ops) - 1}
            if kind == "to device":
                moved = {"name": STRINGS.index(copy), "kind": Activity.COPY, "direction": Direction.HOST_TO_DEVICE, "stream": 9}
                launched.append({**moved, "start": at + begin * US, "end": at + begin * US + 1, "op": len(ops) - 1, "bytes": 4})
            calls.append({**row, "start": at + begin * US, "end": at + end * US})
        for begin, end, launch in kernels:
            ops.append({"name": 2, "start": at + launch * US, "end": at + (launch + 2) * US, "flags": FORWARD})
            calls.append({"name": 5, "start": at + launch * US, "end": at + (launch + 1) * US, "op": len(ops) - 1})
            kernel = {"name": STRINGS.index("kernel"), "runtime_call": len(calls) - 1, "op": len(ops) - 1, "phase": 1}
            launched.append({**kernel, "start": at + begin * US, "end": at + end * US})
        if data is not None:
            ops.append({"name": 1, "start": at + data[0] * US, "end": at + data[1] * US, "flags": 5 << 4})
    return trace(
        strings=STRINGS,
        ops=ops,
        runtime_calls=calls,
        kernels=launched,
        steps=[{"start": 1000 * US * step, "end": 1000 * US * (step + 1), "number": step} for step in (0, 1)],
        facts={"gpu": "cupti", **facts},
    )


class Program:
    """Ops of a program on the CPU, one after another: equal steps, with tensors of float32 unless their names say otherwise."""

    def __init__(self, steps: int = 2, length: int = 1_000_000) -> None:
        self.strings: list[str] = []
        self.shapes: list[tuple[int, ...]] = []
        self.tensors: list[dict[str, Any]] = []
        self.operands: list[int] = []
        self.signatures: list[dict[str, Any]] = []
        self.ops: list[dict[str, Any]] = []
        self.known: dict[tuple[Any, ...], int] = {}
        self.steps = [{"start": at * length, "end": (at + 1) * length, "number": at} for at in range(steps)]
        self.length = length

    def string(self, text: str) -> int:
        """Its row of ``strings``."""
        if text not in self.strings:
            self.strings.append(text)
        return self.strings.index(text)

    def tensor(self, storage: int, dtype: int = 6, shape: tuple[int, ...] = (64, 64), device: int = 0) -> int:
        """Its row of ``tensors``."""
        if shape not in self.shapes:
            self.shapes.append(shape)
        row = {"storage": storage, "dtype": dtype, "shape": self.shapes.index(shape), "device_type": device}
        if row not in self.tensors:
            self.tensors.append(row)
        return self.tensors.index(row)

    def op(
        self,
        name: str,
        start: int,
        time: int,
        inputs: list[int] | None = None,
        outputs: list[int] | None = None,
        *,
        parent: int = -1,
        phase: int = 1,
        **more: Any,
    ) -> int:
        """Add an op; its row. Ops are added by time, those around others first.

        Args:
            inputs, outputs: rows of ``tensors``.
        """
        inputs, outputs = inputs or [], outputs or []
        columns = {"inputs": len(self.operands), "n_inputs": len(inputs)}
        columns |= {"outputs": len(self.operands) + len(inputs), "n_outputs": len(outputs)}
        self.operands += [*inputs, *outputs]
        known = (
            name,
            *((row["shape"], row["dtype"], row["device_type"]) for row in map(self.tensors.__getitem__, inputs + outputs)),
        )
        if known not in self.known:
            self.known[known] = len(self.signatures)
            self.signatures.append({"name": self.string(name), **columns})
        times = {"start": start, "end": start + time}
        self.ops.append({**times, **columns, "signature": self.known[known], "parent": parent, "flags": phase << 4, **more})
        return len(self.ops) - 1

    def trace(self, **more: Any) -> torchprof.Trace:
        """The trace."""
        return trace(
            strings=self.strings,
            shapes=self.shapes,
            tensors=self.tensors,
            operands=self.operands,
            signatures=self.signatures,
            ops=self.ops,
            steps=self.steps,
            **{"facts": {"duration_ns": self.length * len(self.steps)}, **more},
        )
