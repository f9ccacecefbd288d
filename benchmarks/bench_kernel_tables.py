"""From the rows of a trace with a GPU to its tables and files: 1,000,000 kernels that 500,000 ops asked for."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from conftest import Peer, SideBySide

import torchprof
from torchprof.trace.schema import LAYOUTS, Phase, RuntimeCallKind
from torchprof.trace.trace import Trace
from torchprof.trace.type_names import DeviceTypes

LAYERS, STEPS = 100, 10


def synthetic(kernels: int) -> Trace:
    """A loop of 10 steps over 100 layers, two kernels to an op, on a device that is about as fast as the host."""
    rng = np.random.default_rng(0)
    tables: dict[str, Any] = {name: np.zeros(0, dtype=layout) for name, layout in LAYOUTS.items()}
    n_ops, period = kernels // 2, 1_000

    ops = tables["ops"] = np.zeros(n_ops, dtype=LAYOUTS["ops"])
    ops["start"] = np.arange(n_ops) * period
    ops["end"] = ops["start"] + 900
    ops["signature"] = rng.integers(0, 50, n_ops)
    ops["parent"] = np.where(np.arange(n_ops) % 4 == 0, -1, np.arange(n_ops) - np.arange(n_ops) % 4)
    ops["end"][::4] += 3 * period
    ops["flags"] = (1 + np.arange(n_ops) * 8 // n_ops % 2 * 2) << 4
    calls = tables["module_calls"] = np.zeros(LAYERS * STEPS, dtype=LAYOUTS["module_calls"])
    calls["start"] = np.arange(len(calls)) * (n_ops * period // len(calls))
    calls["end"] = calls["start"] + n_ops * period // len(calls)
    calls["module"], calls["parent"], calls["op"] = np.arange(len(calls)) % LAYERS, -1, -1
    ops["module_call"] = np.arange(n_ops) * len(calls) // n_ops

    runtime = tables["runtime_calls"] = np.zeros(kernels, dtype=LAYOUTS["runtime_calls"])
    runtime["op"] = np.arange(kernels) // 2
    runtime["start"] = ops["start"][runtime["op"]] + 100 + 300 * (np.arange(kernels) % 2)
    runtime["end"] = runtime["start"] + 200
    runtime["module_call"], runtime["name"] = ops["module_call"][runtime["op"]], 60
    runtime["kind"] = np.where(np.arange(kernels) % 1000 == 999, RuntimeCallKind.SYNCHRONIZE, RuntimeCallKind.LAUNCH)
    done = tables["kernels"] = np.zeros(kernels, dtype=LAYOUTS["kernels"])
    took = rng.integers(50, 900, kernels)
    before = np.append(0, np.cumsum(took)[:-1])
    done["start"] = before + np.maximum.accumulate(runtime["start"] + 150 - before)  # each after its launch and the one before
    done["end"] = done["start"] + took
    done["runtime_call"], done["op"], done["module_call"] = np.arange(kernels), runtime["op"], runtime["module_call"]
    done["name"], done["stream"], done["device_type"] = 50 + rng.integers(0, 200, kernels), 7, 1
    done["phase"] = np.where(ops["flags"][done["op"]] >> 4 == Phase.BACKWARD, Phase.BACKWARD, Phase.FORWARD)

    signatures = tables["signatures"] = np.zeros(50, dtype=LAYOUTS["signatures"])
    signatures["name"] = np.arange(50)
    modules = tables["modules"] = np.zeros(LAYERS, dtype=LAYOUTS["modules"])
    modules["address"] = 1 + np.arange(LAYERS)
    steps = tables["steps"] = np.zeros(STEPS, dtype=LAYOUTS["steps"])
    steps["start"] = np.arange(STEPS) * (n_ops * period // STEPS)
    steps["end"] = steps["start"] + n_ops * period // STEPS
    steps["kernels"] = kernels // STEPS
    tables["threads"] = np.zeros(1, dtype=LAYOUTS["threads"])
    names = [f"void at::native::kernel_{number}<float, {number}>(int, float*)" for number in range(200)]
    strings = [f"aten::op_{number}" for number in range(50)] + names
    return Trace(**tables, strings=strings, facts={"gpu": "cupti"}, device_types=DeviceTypes({0: "cpu", 1: "cuda"}))


def test_tables_of_kernels(side_by_side: SideBySide, tmp_path: Path) -> None:
    kernels = side_by_side.size(1_000_000, 1_000)
    trace = synthetic(kernels)

    def timed(make: Callable[[Trace], object]) -> Peer:
        def peer() -> float:
            begin = time.perf_counter()
            assert str(make(trace))
            return time.perf_counter() - begin

        return peer

    tables = {
        "by_module": torchprof.by_module,
        "by_op": torchprof.by_op,
        "by_step": torchprof.by_step,
        "by_kernel": torchprof.by_kernel,
        "gpu": torchprof.gpu,
        "export_chrome": lambda trace: torchprof.export_chrome(trace, tmp_path / "trace.json"),
        "export_folded": lambda trace: torchprof.export_folded(trace, tmp_path / "trace.folded", "device"),
    }
    side_by_side(
        f"tables and files of {kernels:,} kernels of {kernels // 2:,} ops",
        {name: timed(make) for name, make in tables.items()},
        unit="s",
        rounds=3,
    )
