"""Tables and accounts of recorded kernels. An aggregated trace gives the same tables as one with single rows.

No GPU is needed: see fake_gpu.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_gpu import SYNCHRONIZE, FakeGpu, KernelForEveryOp
from torch import nn

import torchprof
from torchprof.trace.trace import Trace

KERNEL = 5_000
"""The duration of every kernel, in nanoseconds."""


def trained(gpu: FakeGpu, **options: Any) -> Trace:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    optimizer = torch.optim.SGD(model.parameters())
    schedule = torchprof.schedule(warmup=1, active=2)
    with torchprof.profile(model, gpu="cupti", schedule=schedule, **options) as prof, KernelForEveryOp(gpu, KERNEL):
        for _ in range(3):
            model(torch.ones(2, 4)).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
            gpu.call(SYNCHRONIZE, 100_000)
            prof.step()
    return prof.trace


def figures(table: torchprof.Table, *names: str) -> dict[str, tuple[float, ...]]:
    """Figures by row. Times are rounded to a tenth of a kernel: the offset between clocks is measured for each recording."""
    found: dict[str, tuple[float, ...]] = {}
    for row in table.rows:
        key = str(row.get("path") or row["name"])
        found[key] = tuple(row[name] if name in ("count", "kernels") else round(row[name] / KERNEL, 1) for name in names)
    return found


def test_single_rows_and_an_aggregated_trace_give_the_same_tables(gpu: FakeGpu) -> None:
    rows, sums = trained(gpu), trained(gpu, aggregate=True)
    phases = [f"device_{phase}" for phase in ("forward", "backward", "optimizer")]
    modules = figures(torchprof.by_module(rows), "device", *phases)
    assert figures(torchprof.by_module(sums), "device", *phases) == modules
    assert modules["0"][0] > modules["1"][0] > 0
    assert all(modules["0"])
    ops = figures(torchprof.by_op(rows), "device", "device_self", "kernels")
    assert figures(torchprof.by_op(sums), "device", "device_self", "kernels") == ops
    kernels = figures(torchprof.by_kernel(rows), "count", "device", "min", "max")
    assert figures(torchprof.by_kernel(sums), "count", "device", "min", "max") == kernels
    assert figures(torchprof.by_step(rows), "kernels") == figures(torchprof.by_step(sums), "kernels")


def test_every_kernel_of_an_active_step_is_in_every_table(gpu: FakeGpu) -> None:
    trace = trained(gpu)
    active = trace.steps[trace.steps["warmup"] == 0]
    count = int(active["kernels"].sum()) / len(active)
    assert count > 10
    whole = sum(row["device"] for row in torchprof.by_module(trace).rows if row["depth"] == 0)
    assert whole == pytest.approx(count * KERNEL, rel=0.01)
    assert sum(row["count"] for row in torchprof.by_kernel(trace).rows) == count
    assert sum(row["kernels"] for row in torchprof.by_op(trace).rows) == count


def test_the_account_of_a_gpu_says_why_it_was_idle(gpu: FakeGpu) -> None:
    account = torchprof.gpu(trained(gpu))
    (device,) = account.devices
    assert device.name == "cuda:0"
    assert device.busy + sum(device.idle.values()) == device.span
    assert device.idle["launch-bound"] > device.busy  # a kernel of 5 us for every op, which takes Python longer
    assert device.idle["synchronization"] > 0
    assert {wait.call for wait in account.waits} == {"cudaStreamSynchronize"}
    assert "seen by CUPTI" in str(account)


def test_kernels_are_drawn_with_arrows_from_their_launches(gpu: FakeGpu, tmp_path: Path) -> None:
    trace = trained(gpu)
    torchprof.export_chrome(trace, tmp_path / "steps.json")
    events = json.loads((tmp_path / "steps.json").read_text())["traceEvents"]
    names = [event["name"] for event in events if event["ph"] == "X"]
    assert names.count("cudaLaunchKernel") == len(trace.kernels)
    starts = [event for event in events if event["ph"] == "s" and event.get("cat") == "launch"]
    assert len(starts) == len(trace.kernels)
