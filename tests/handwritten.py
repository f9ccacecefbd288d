"""Traces written by hand, for tests that do not need the recorder."""

from __future__ import annotations

from typing import Any

import numpy as np
from phase_oracle import COLUMNS, fill_phases

from torchprof.trace.model import Model, ModuleInfo, TensorInfo
from torchprof.trace.schema import (
    LAYOUTS,
    NO_ARGUMENTS,
    NO_NAME,
    OP_ATTRIBUTED,
    OP_WRAPPER,
    Activity,
    Direction,
    Phase,
    RuntimeCallKind,
)
from torchprof.trace.trace import Trace
from torchprof.trace.type_names import DeviceTypes, Dtype, Dtypes

Shape = tuple[int, ...]
FORWARD = int(Phase.FORWARD) << 4
"""Flags of an op that ran in forward."""

DTYPES = Dtypes({1: Dtype("int8", 1), 4: Dtype("int64", 8), 5: Dtype("float16", 2), 6: Dtype("float32", 4)})
DEVICE_TYPES = DeviceTypes({0: "cpu", 1: "cuda", 14: "meta", 20: "privateuseone"})

DEFAULTS: dict[str, dict[str, int]] = {
    "ops": {"parent": -1, "module_call": -1, "sequence_nr": -1},
    "module_calls": {"parent": -1, "op": -1},
    "allocations": {"end": -1, "op": -1, "free_op": -1, "module_call": -1, "module": -1, "device_index": -1},
    "allocator_totals": {"device_type": 1},
    "kernels": {"runtime_call": -1, "op": -1, "module_call": -1, "device_type": 1},
    "runtime_calls": {"op": -1, "module_call": -1},
    "kernel_totals": {"op": NO_NAME, "module": -1, "device_type": 1},
    "functions": {"file": -1, "first_line": -1},
    "stacks": {"parent": -1, "line": -1},
    "signatures": {"arguments": NO_ARGUMENTS, "results": NO_ARGUMENTS},
}


def trace(
    *,
    model: Model | None = None,
    strings: list[str] | None = None,
    shapes: list[Shape] | None = None,
    facts: dict[str, Any] | None = None,
    operands: list[int] | None = None,
    stacks_of: dict[str, list[int]] | None = None,
    **tables: list[dict[str, Any]],
) -> Trace:
    """A trace with these rows. Columns that are not given are 0, or -1 where that means none.

    Ops may have a ``name`` (row of strings) instead of a signature, which is then made from it. Signatures may have ``flops``.
    Modules without a ``type`` have the class that the model has at their address. Where no step has times by phase, they are
    found. ``stacks_of`` has the lists ``op_stacks``, ``call_stacks`` and ``allocation_stacks``.
    """
    named = [row for row in tables.get("ops", []) if "name" in row]
    if named:
        names = sorted({row["name"] for row in named})
        tables["signatures"] = [{"name": name} for name in names]
        tables["ops"] = [
            {"signature": names.index(row["name"]), **{k: v for k, v in row.items() if k != "name"}} for row in tables["ops"]
        ]
    strings = list(strings or [])
    classes = {info.address: info.type for info in reversed(model.modules if model is not None else ())}
    for row in tables.get("modules", []):
        if "type" not in row and row.get("address") in classes:
            strings.append(classes[row["address"]])
            row["type"] = len(strings) - 1
    layouts = LAYOUTS
    arrays = {name: np.zeros(len(tables.get(name, [])), dtype=layout) for name, layout in layouts.items()}
    arrays["signature_flops"] = np.array([row.get("flops", -1) for row in tables.get("signatures", [])], dtype=np.int64)
    for name, rows in tables.items():
        for index, row in enumerate(rows):
            for column, value in {**DEFAULTS.get(name, {}), **row}.items():
                if (name, column) == ("signatures", "flops"):
                    continue  # an array of its own
                arrays[name][index][column] = value
    if not any(column in row for row in tables.get("steps", []) for column in COLUMNS.values()):
        fill_phases(arrays["steps"], arrays["ops"], arrays["module_calls"], int((facts or {}).get("duration_ns", 0)))
    dims = [size for shape in shapes or [] for size in shape]
    arrays["dims"] = np.array(dims, dtype=np.int64)
    arrays["shapes"] = np.zeros(len(shapes or []), dtype=LAYOUTS["shapes"])
    first = 0
    for index, shape in enumerate(shapes or []):
        arrays["shapes"][index] = (first, len(shape))
        first += len(shape)
    if not tables.get("threads"):
        threads = 1 + max(
            (int(rows.max()) for name in ("ops", "module_calls") if len(rows := arrays[name]["thread"])), default=-1
        )
        arrays["threads"] = np.zeros(threads, dtype=LAYOUTS["threads"])
    arrays["operands"] = np.array(operands or [], dtype=np.int32)
    for name, rows_of_stacks in (stacks_of or {}).items():
        arrays[name] = np.array(rows_of_stacks, dtype=np.int32)
    return Trace(**arrays, strings=strings, facts=facts or {}, model=model, dtypes=DTYPES, device_types=DEVICE_TYPES)


def parameter(name: str, *shape: int, dtype: str = "float32", itemsize: int = 4, **rest: Any) -> TensorInfo:
    numel = int(np.prod(shape))
    return TensorInfo(name, shape, dtype, "cpu", numel, numel * itemsize, rest.pop("trainable", True), **rest)


def module(path: str, type: str, parent: int, address: int, **rest: Any) -> ModuleInfo:
    depth = path.count(".") + 1 if path else 0
    return ModuleInfo(path, path.rpartition(".")[2] or type, type, parent, depth, address, **rest)


def two_layer_trace() -> Trace:
    """``Net(fc=Linear(3, 4), act=ReLU)``: fc is called once, act twice, unused never; forward takes 100 us."""
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
    """A warm-up step and two active ones. In each, the module is called once, with mm inside linear: 10, 10 and 30 ns."""
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
            {"name": 2, "inputs": 0, "n_inputs": 2, "outputs": 2, "n_outputs": 1, "flops": 2 * 2 * 3 * 4},
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


ADD_KERNEL = (
    "void at::native::vectorized_elementwise_kernel<4, at::native::CUDAFunctor_add<float>, std::array<char*, 3ul> >"
    "(int, at::native::CUDAFunctor_add<float>, std::array<char*, 3ul>)"
)
GPU_STRINGS = (
    "Net Linear ReLU aten::copy_ aten::linear aten::addmm aten::relu aten::mse_loss aten::item aten::_local_scalar_dense "
    "autograd::engine::evaluate_function:AddmmBackward0 AddmmBackward0 aten::mm Optimizer.step#SGD aten::_foreach_add_ "
    "cudaMemcpyAsync cudaLaunchKernel cudaStreamSynchronize cudaGraphLaunch "
    "copy_to_device ampere_sgemm_128x64_tn add_kernel reduce_kernel copy_to_host ampere_sgemm_128x64_nt multi_tensor_apply "
    "first_node second_node unseen peer_copy ncclDevKernel_AllReduce"
).split()
_NAMES = {name: row for row, name in enumerate(GPU_STRINGS)}
US = 1000


def gpu_trace(**facts: Any) -> Trace:
    """``Net(fc=Linear(1024, 1024), act=ReLU)`` trained on two GPUs: a warm-up step and two active ones, of 1 ms each.

    A step in microseconds of device time, on ``cuda:0`` and stream 7 where nothing else is said::

          8- 28  the batch is copied to the device, on stream 20  450-550  fc in backward, launched by the thread of autograd
         75-175  fc; until 195 in the last step                   640-680  the optimizer
        180-200  act, launched in time                            740-780  two kernels of a CUDA graph, of no op
        330-400  the loss, launched long after act had ended      790-795  a kernel whose launch was not recorded
        402-404  item() copies it back, and the host waits        cuda:1: 700-720 a copy from cuda:0, 800-820 a kernel
    """
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in ("ops", "module_calls", "kernels", "runtime_calls", "steps")}
    for number in range(3):
        _gpu_step(rows, number)
    model = Model(
        (
            module("", "Net", -1, 100),
            module("fc", "Linear", 0, 101, parameters=(parameter("weight", 1024, 1024), parameter("bias", 1024))),
            module("act", "ReLU", 0, 102),
        )
    )
    strings = [{"add_kernel": ADD_KERNEL, "copy_to_device": "Memcpy HtoD (Pageable -> Device)"}.get(s, s) for s in GPU_STRINGS]
    names = sorted({row["name"] for row in rows["ops"]})
    signatures = [{"name": name} for name in names]
    product = {"n_outputs": 1, "outputs": 3, "flops": 2 * 512 * 1024 * 1024}
    signatures[names.index(_NAMES["aten::addmm"])] |= {"inputs": 0, "n_inputs": 3, **product}
    signatures[names.index(_NAMES["aten::mm"])] |= {"inputs": 1, "n_inputs": 2, **product}
    rows["ops"] = [
        {"signature": names.index(row["name"]), **{k: v for k, v in row.items() if k != "name"}} for row in rows["ops"]
    ]
    return trace(
        model=model,
        strings=strings,
        shapes=[(1024,), (512, 1024), (1024, 1024)],
        tensors=[{"shape": shape, "dtype": 6, "storage": at + 1, "device_type": 1} for at, shape in enumerate((0, 1, 2, 1))],
        operands=[0, 1, 2, 3],
        signatures=signatures,
        modules=[{"address": 100 + row, "type": row} for row in range(3)],
        threads=[{"torch_id": 7, "native_id": 70}, {"torch_id": 8, "native_id": 80}],
        facts={"duration_ns": 3000 * US, "gpu": "cupti", "gpu_clock_error_ns": 1500, **facts},
        **rows,
    )


def _gpu_step(rows: dict[str, list[dict[str, Any]]], number: int) -> None:
    """One step of ``gpu_trace``."""
    begin = 1000 * US * number

    def add(table: str, name: str | None, start: float, end: float, **more: Any) -> int:
        times = {"start": begin + int(start * US), "end": begin + int(end * US)}
        rows[table].append({**times, **({} if name is None else {"name": _NAMES[name]}), **more})
        return len(rows[table]) - 1

    net = add("module_calls", None, 10, 300)
    fc = add("module_calls", None, 20, 100, module=1, parent=net)
    act = add("module_calls", None, 110, 150, module=2, parent=net)
    attributed = {"module_call": fc, "thread": 1, "flags": (int(Phase.BACKWARD) << 4) | OP_ATTRIBUTED}
    update = {"flags": int(Phase.OPTIMIZER) << 4}

    copy = add("ops", "aten::copy_", 0, 8)
    linear = add("ops", "aten::linear", 25, 90, module_call=fc, flags=FORWARD | OP_WRAPPER)
    addmm = add("ops", "aten::addmm", 30, 85, parent=linear, module_call=fc, flags=FORWARD)
    relu = add("ops", "aten::relu", 115, 145, module_call=act, flags=FORWARD)
    loss = add("ops", "aten::mse_loss", 310, 340, flags=FORWARD)
    item = add("ops", "aten::item", 345, 420)
    dense = add("ops", "aten::_local_scalar_dense", 348, 418, parent=item)
    engine = add("ops", "autograd::engine::evaluate_function:AddmmBackward0", 420, 500, **attributed)
    node = add("ops", "AddmmBackward0", 425, 495, parent=engine, scope=1, **attributed)
    mm = add("ops", "aten::mm", 430, 490, parent=node, **attributed)
    optimizer = add("ops", "Optimizer.step#SGD", 600, 700, scope=7, **update)
    foreach = add("ops", "aten::_foreach_add_", 610, 690, parent=optimizer, **update)

    def call(
        kind: RuntimeCallKind,
        start: float,
        end: float,
        name: str = "cudaLaunchKernel",
        op: int = -1,
        module_call: int = -1,
        **more: Any,
    ) -> dict[str, Any]:
        """Add a runtime call. Returns the columns that the kernel it launches has in common with it."""
        owner = {"op": op, "module_call": module_call, "phase": more.pop("phase", Phase.OTHER)}
        correlation = len(rows["runtime_calls"]) + 1
        row = add("runtime_calls", name, start, end, kind=kind, correlation=correlation, **owner, **more)
        return {"runtime_call": row, **owner}

    to_device = {"stream": 20, "bytes": 400_000, "kind": Activity.COPY, "direction": Direction.HOST_TO_DEVICE}
    to_host = {"stream": 7, "bytes": 4, "kind": Activity.COPY, "direction": Direction.DEVICE_TO_HOST}
    peer = {"stream": 7, "bytes": 1_000_000, "kind": Activity.COPY, "direction": Direction.BETWEEN_DEVICES, "device_index": 1}
    forward, backward = Phase.FORWARD, Phase.BACKWARD
    copy_call = call(RuntimeCallKind.COPY, 2, 6, "cudaMemcpyAsync", copy)
    add("kernels", "copy_to_device", 8, 28, **to_device, **copy_call)
    shape = {"grid": (8, 16, 1), "block": (256, 1, 1), "registers": 122, "shared_memory": 49152, "stream": 7}
    launch = call(RuntimeCallKind.LAUNCH, 60, 68, op=addmm, module_call=fc, phase=forward)
    add("kernels", "ampere_sgemm_128x64_tn", 75, 195 if number == 2 else 175, **shape, **launch)
    launch = call(RuntimeCallKind.LAUNCH, 125, 130, op=relu, module_call=act, phase=forward)
    add("kernels", "add_kernel", 200 if number == 2 else 180, 220 if number == 2 else 200, stream=7, **launch)
    add("kernels", "reduce_kernel", 330, 400, stream=7, **call(RuntimeCallKind.LAUNCH, 320, 326, op=loss, phase=forward))
    add("kernels", "copy_to_host", 402, 404, **to_host, **call(RuntimeCallKind.COPY, 350, 356, "cudaMemcpyAsync", dense))
    call(RuntimeCallKind.SYNCHRONIZE, 357, 410, "cudaStreamSynchronize", dense)
    launch = call(RuntimeCallKind.LAUNCH, 440, 446, op=mm, module_call=fc, phase=backward, thread=1)
    add("kernels", "ampere_sgemm_128x64_nt", 450, 550, **shape, **launch)
    launch = call(RuntimeCallKind.LAUNCH, 620, 626, op=foreach, phase=Phase.OPTIMIZER)
    add("kernels", "multi_tensor_apply", 640, 680, stream=7, **launch)
    add("kernels", "peer_copy", 700, 720, **peer, **call(RuntimeCallKind.COPY, 695, 699, "cudaMemcpyAsync"))
    graph_launch = call(RuntimeCallKind.GRAPH_LAUNCH, 720, 730, "cudaGraphLaunch")
    add("kernels", "first_node", 740, 760, stream=7, graph=3, **graph_launch)
    add("kernels", "second_node", 760, 780, stream=7, graph=3, **graph_launch)
    add("kernels", "ncclDevKernel_AllReduce", 800, 820, stream=7, device_index=1, **call(RuntimeCallKind.LAUNCH, 725, 729))
    add("kernels", "unseen", 790, 795, stream=7)
    busy = 457_000 if number == 2 else 437_000
    add("steps", None, 0, 1000, number=number, warmup=number == 0, busy=busy, kernels=11)
