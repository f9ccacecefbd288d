"""Ending a recording of many kernels: joining them to ops and modules, and every table.

There is no GPU: see tests/fake_gpu.py."""

from __future__ import annotations

import time

import pytest
import torch
from compiled import shared_library
from conftest import SideBySide
from fake_gpu import FakeGpu
from torch import nn

import torchprof


class Launches(nn.Module):
    """As many calls of an op that launches one kernel."""

    def __init__(self, gpu: FakeGpu, count: int) -> None:
        super().__init__()
        self.gpu, self.count = gpu, count

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for _ in range(self.count):
            with torch.profiler.record_function("an op"):
                self.gpu.launch("a_kernel")
        return x


def test_stop_and_tables_of_a_million_kernels(side_by_side: SideBySide, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHPROF_CUPTI", str(shared_library("fake_cupti.cpp")))
    gpu = FakeGpu()
    kernels = side_by_side.size(1_000_000, 100)
    model = nn.Sequential(*(Launches(gpu, kernels // 100) for _ in range(100)))

    def ours() -> float:
        prof = torchprof.profile(model, gpu="cupti")
        with prof:
            model(torch.ones(1))
            prof.step()
            begin = time.perf_counter()
        assert len(torchprof.by_module(prof.trace))
        assert len(torchprof.by_op(prof.trace))
        assert len(torchprof.by_step(prof.trace))
        taken = time.perf_counter() - begin
        assert not prof.trace.losses
        assert len(prof.trace.kernels) == kernels
        return taken

    side_by_side(f"stop and every table of {kernels:,} kernels", {"torchprof, everything": ours}, unit="s", rounds=3)
