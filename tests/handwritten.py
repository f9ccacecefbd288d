"""Traces written by hand, for tests that must not depend on a recorder."""

from __future__ import annotations

from typing import Any

import numpy as np

from torchprof.modules import Model, ModuleInfo, TensorInfo
from torchprof.trace import LAYOUTS, NO_ARGUMENTS, NO_NAME, OP_WRAPPER, Phase, Trace

Shape = tuple[int, ...]
FORWARD = int(Phase.FORWARD) << 4  # as flags of an op

DEFAULTS: dict[str, dict[str, int]] = {
    "ops": {"parent": -1, "module_call": -1, "sequence_nr": -1},
    "module_calls": {"parent": -1, "op": -1},
    "allocations": {"end": -1, "op": -1, "free_op": -1, "module_call": -1, "module": -1, "device_index": -1},
    "allocator_totals": {"device_type": 1},
    "kernels": {"runtime_call": -1, "op": -1, "module_call": -1, "device_type": 1},
    "runtime_calls": {"op": -1, "module_call": -1},
    "kernel_totals": {"op": NO_NAME, "module": -1, "device_type": 1},
    "signatures": {"arguments": NO_ARGUMENTS, "results": NO_ARGUMENTS},
}


def trace(
    *,
    model: Model | None = None,
    strings: list[str] | None = None,
    shapes: list[Shape] | None = None,
    facts: dict[str, Any] | None = None,
    operands: list[int] | None = None,
    **tables: list[dict[str, Any]],
) -> Trace:
    """A trace with these rows; a column that is not named is 0, or -1 where that means none.

    Ops may have a ``name`` (row of strings) in place of a signature, which is then made for them.
    """
    named = [row for row in tables.get("ops", []) if "name" in row]
    if named:
        names = sorted({row["name"] for row in named})
        tables["signatures"] = [{"name": name} for name in names]
        tables["ops"] = [
            {"signature": names.index(row["name"]), **{k: v for k, v in row.items() if k != "name"}} for row in tables["ops"]
        ]
    arrays = {name: np.zeros(len(tables.get(name, [])), dtype=layout) for name, layout in LAYOUTS.items()}
    for name, rows in tables.items():
        for index, row in enumerate(rows):
            for column, value in {**DEFAULTS.get(name, {}), **row}.items():
                arrays[name][index][column] = value
    dims = [size for shape in shapes or [] for size in shape]
    arrays["dims"] = np.array(dims, dtype=np.int64)
    arrays["shapes"] = np.zeros(len(shapes or []), dtype=LAYOUTS["shapes"])
    first = 0
    for index, shape in enumerate(shapes or []):
        arrays["shapes"][index] = (first, len(shape))
        first += len(shape)
    arrays["operands"] = np.array(operands or [], dtype=np.int32)
    return Trace(**arrays, strings=strings or [], facts=facts or {}, model=model)


def parameter(name: str, *shape: int, dtype: str = "float32", itemsize: int = 4, **rest: Any) -> TensorInfo:
    numel = int(np.prod(shape))
    return TensorInfo(name, shape, dtype, "cpu", numel, numel * itemsize, rest.pop("trainable", True), **rest)


def module(path: str, type: str, parent: int, address: int, **rest: Any) -> ModuleInfo:
    depth = path.count(".") + 1 if path else 0
    return ModuleInfo(path, path.rpartition(".")[2] or type, type, parent, depth, address, **rest)


def two_layer_trace() -> Trace:
    """``Net(fc=Linear(3, 4), act=ReLU)``: fc called once, act twice, unused never; 100 us forward, times in nanoseconds."""
    model = Model(
        (
            module("", "Net", -1, 100),
            module("fc", "Linear", 0, 101, parameters=(parameter("weight", 4, 3), parameter("bias", 4))),
            module("act", "ReLU", 0, 102),
            module("unused", "Linear", 0, 103, parameters=(parameter("weight", 2, 2, trainable=False),)),
        )
    )
    one_in_one_out = {"n_inputs": 1, "n_outputs": 1}
    return trace(
        model=model,
        strings=["Net", "Linear", "ReLU", "forward", "forward done"],
        shapes=[(2, 3), (2, 4)],
        tensors=[
            {"shape": 0, "dtype": 6, "storage": 1, "storage_bytes": 24},
            {"shape": 1, "dtype": 6, "storage": 2, "storage_bytes": 32},
        ],
        operands=[0, 0, 1, 1, 1, 1, 1, 1],
        modules=[{"address": 100, "type": 0}, {"address": 101, "type": 1}, {"address": 102, "type": 2}],
        module_calls=[
            {**one_in_one_out, "start": 0, "end": 100_000, "module": 0, "inputs": 0, "outputs": 7},
            {**one_in_one_out, "start": 5_000, "end": 55_000, "module": 1, "parent": 0, "inputs": 1, "outputs": 2},
            {**one_in_one_out, "start": 60_000, "end": 70_000, "module": 2, "parent": 0, "inputs": 3, "outputs": 4},
            {**one_in_one_out, "start": 75_000, "end": 95_000, "module": 2, "parent": 0, "inputs": 5, "outputs": 6},
        ],
        allocations=[
            {"start": 10_000, "end": 30_000, "address": 1, "bytes": 3000},
            {"start": 20_000, "address": 2, "bytes": 1000},
            {"start": 40_000, "address": 3, "bytes": 500},
        ],
        marks=[{"time": 0, "name": 3}, {"time": 100_000, "name": 4}],
        facts={"memory": True, "input_bytes": 24},
    )


def loop_trace() -> Trace:
    """Two active steps after one of warm-up, each with mm inside linear: 10, 10 and 30 ns; and a call of the module."""
    ops = []
    for start, length in ((0, 10), (100, 10), (200, 30)):
        row = len(ops)
        ops.append(
            {"signature": 0, "start": start, "end": start + length, "module_call": row // 2, "flags": FORWARD | OP_WRAPPER}
        )
        ops.append(
            {
                "signature": 1,
                "start": start + 1,
                "end": start + length - 1,
                "parent": row,
                "module_call": row // 2,
                "flags": FORWARD,
            }
        )
    return trace(
        model=Model((module("", "Net", -1, 100),)),
        strings=["Net", "aten::linear", "aten::mm"],
        shapes=[(2, 3), (3, 4), (2, 4)],
        tensors=[{"shape": shape, "dtype": 6, "storage": shape + 1} for shape in range(3)],
        operands=[0, 1, 2],
        signatures=[
            {"name": 1, "inputs": 0, "n_inputs": 2, "outputs": 2, "n_outputs": 1},
            {"name": 2, "inputs": 0, "n_inputs": 2, "outputs": 2, "n_outputs": 1},
        ],
        modules=[{"address": 100}],
        module_calls=[{"start": start, "end": start + 40} for start in (0, 100, 200)],
        ops=ops,
        allocations=[{"start": 105, "end": 150, "bytes": 32, "op": 3}, {"start": 205, "bytes": 32, "op": 5}],
        steps=[
            {"start": 0, "end": 90, "warmup": 1},
            {"start": 100, "end": 190, "number": 1},
            {"start": 200, "end": 290, "number": 2},
        ],
    )
