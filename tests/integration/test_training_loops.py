"""Whole training loops, some of them of other libraries, against truths that were found without torchprof."""

from __future__ import annotations

import gc
from collections.abc import Callable
from itertools import accumulate
from typing import Any

import pytest
import torch
from counting import memory_reports
from torch.utils.flop_counter import FlopCounterMode
from training_loops import LOOPS, STEPS, Loop

import torchprof

pytestmark = pytest.mark.filterwarnings("ignore")  # of the other libraries

PARTS = ("forward", "recompute", "backward", "optimizer", "data", "other")


def fresh(make: Callable[[], Loop]) -> Loop:
    torch.manual_seed(0)
    return make()


def recorded(make: Callable[[], Loop]) -> tuple[Loop, torchprof.Trace]:
    loop = fresh(make)
    with torchprof.profile(loop.models) as prof:
        loop.run(prof.step)
    return loop, prof.trace


@pytest.fixture(params=LOOPS)
def make(request: pytest.FixtureRequest) -> Callable[[], Loop]:
    return LOOPS[request.param]


def test_the_phases_of_a_step_partition_its_time(make: Callable[[], Loop]) -> None:
    _, trace = recorded(make)
    steps = torchprof.by_step(trace).rows
    assert len(steps) >= STEPS  # libraries do something after the last one
    for step in steps:
        assert sum(step[part] for part in PARTS) == step["time"]
        assert all(step[part] >= 0 for part in PARTS)
        assert min(step["forward"], step["backward"], step["optimizer"]) > 0


def test_every_call_of_the_models_is_counted(make: Callable[[], Loop]) -> None:
    loop = fresh(make)
    calls = 0

    def count(*_: Any) -> None:
        nonlocal calls
        calls += 1

    linear = [module for model in loop.models.values() for module in model.modules() if type(module) is torch.nn.Linear]
    for module in linear:
        module.register_forward_hook(count)
    with torchprof.profile(loop.models) as prof:
        loop.run(prof.step)
    rows = torchprof.by_module(prof.trace).rows
    assert calls > 0
    assert sum(row["calls"] for row in rows if row["type"] == "Linear") * STEPS == calls  # rows are of one step


def test_flops_are_those_that_pytorch_counts(make: Callable[[], Loop]) -> None:
    loop = fresh(make)
    with FlopCounterMode(display=False) as counter:
        loop.run(lambda: None)
    _, trace = recorded(make)
    rows = [row for row in torchprof.by_op(trace).rows if row["name"] != "aten::dot"]  # which PyTorch does not count
    assert sum(row["flops"] or 0 for row in rows) * STEPS == counter.get_total_flops()


def test_half_of_the_work_of_backward_is_that_of_forward(make: Callable[[], Loop]) -> None:
    _, trace = recorded(make)
    rows = {part: torchprof.by_op(trace, phase=part).rows for part in ("forward", "backward")}
    flops = {part: sum(row["flops"] or 0 for row in rows[part]) for part in rows}
    assert flops["forward"] > 0
    # Every matrix product has two in backward, but those of an input that needs no gradient.
    assert flops["forward"] < flops["backward"] <= 2 * flops["forward"]


def test_the_peak_is_that_of_pytorchs_profiler(make: Callable[[], Loop]) -> None:
    loop = fresh(make)
    expected = max(accumulate(memory_reports(lambda: loop.run(lambda: None))))
    gc.collect()
    _, trace = recorded(make)
    found = torchprof.memory(trace)
    before = trace.allocations["bytes"][trace.allocations["start"] < 0].sum()
    assert found.peak.bytes - before == expected


def test_nothing_leaks(make: Callable[[], Loop]) -> None:
    _, trace = recorded(make)
    found = torchprof.memory(trace)
    assert found.leaks_unknown is None
    assert found.leaks == []


def test_the_model_learns_what_it_learns_without_a_recording(make: Callable[[], Loop]) -> None:
    loop = fresh(make)
    loop.run(lambda: None)
    observed, _ = recorded(make)
    for name, model in loop.models.items():
        for expected, parameter in zip(model.parameters(), observed.models[name].parameters(), strict=True):
            assert torch.equal(expected, parameter)
