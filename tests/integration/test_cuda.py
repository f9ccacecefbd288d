"""On a GPU: what is recorded, accounted for and replayed, against CUDA's own statistics."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import torchprof

pytestmark = pytest.mark.cuda


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(512, 1024), nn.ReLU(), nn.Linear(1024, 10)).cuda()


def test_a_summary_of_a_model_on_a_gpu_has_shapes_and_memory() -> None:
    summary = torchprof.summary(network(), (64, 512), backward=True, verbose=0)
    assert [row.output_shapes for row in summary.rows[1:]] == [((64, 1024),), ((64, 1024),), ((64, 10),)]
    assert summary.totals.saved > 0
    assert summary.totals.backward_unattributed < 0.1 * summary.totals.backward


def test_the_account_of_a_gpu_is_that_of_its_allocator() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters())
    x = torch.rand(64, 512, device="cuda")
    model(x).sum().backward()  # workspaces and handles are there from now on
    model.zero_grad()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    with torchprof.profile(model) as prof:
        model(x).sum().backward()
        optimizer.step()
        torch.cuda.synchronize()
    account = torchprof.memory(prof.trace, "cuda")
    assert (account.allocations["start"] >= 0).any()
    assert account.peak.bytes == torch.cuda.max_memory_allocated()
    assert account.max_reserved == torch.cuda.max_memory_reserved()
    assert sum(account.by_category.values()) == account.peak.bytes


def test_backward_on_a_device_thread_is_joined_to_its_modules() -> None:
    model = network()
    with torchprof.profile(model) as prof:
        model(torch.rand(64, 512, device="cuda")).sum().backward()
    rows = {row["name"]: row["backward"] for row in torchprof.by_module(prof.trace).rows}
    assert rows["0"] > 0
    assert rows["2"] > 0
    assert len(prof.trace.threads) > 1


def test_a_recorded_snapshot_replays_to_the_byte() -> None:
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    torch.cuda.memory._record_memory_history(context=None)
    model = network()
    for batch in (32, 64, 128):
        model(torch.rand(batch, 512, device="cuda")).sum().backward()
    snapshot = torch.cuda.memory._snapshot()
    torch.cuda.memory._record_memory_history(enabled=None)
    replayed = torchprof.replay_snapshot(snapshot)
    assert replayed.misplaced == 0
    assert replayed.max_reserved == replayed.recorded_max_reserved
