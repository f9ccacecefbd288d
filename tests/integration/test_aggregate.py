"""``profile(aggregate=True)``: steps folded into sums while recording are the sums of the whole trace, in constant memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from architectures import Case, bert, gpt2, loss_of, resnet, swin
from sums import rows_of_modules, sums_of_calls, sums_of_ops
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import torchprof
from torchprof import _C
from torchprof.trace.schema import LAYOUTS
from torchprof.trace.trace import Trace


class Mixed(nn.Module):
    """A layer that is checkpointed, one that is used twice, and a batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.twice = nn.Sequential(nn.Linear(8, 8), nn.ReLU())
        self.again = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8))
        self.norm = nn.BatchNorm1d(8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.twice(self.twice(self.first(x)))
        return self.norm(checkpoint(self.again, x, use_reentrant=False))


def mixed() -> Case:
    return Mixed(), {"x": torch.ones(4, 6)}


def record(make: Callable[[], Case], *, steps: int = 4, **options: Any) -> Trace:
    torch.manual_seed(0)
    model, data = make()
    update = torch.optim.AdamW(model.parameters())
    with torchprof.profile(model, **options) as prof:
        for _ in range(steps):
            loss_of(model(**data)).backward()
            update.step()
            update.zero_grad()
            prof.step()
    return prof.trace


@pytest.mark.parametrize("make", [mixed, gpt2, bert, swin, resnet], ids=lambda make: make.__name__)
@pytest.mark.filterwarnings("ignore")
def test_folded_steps_are_the_sums_of_the_whole_trace(make: Callable[[], Case]) -> None:
    whole, folded = record(make), record(make, aggregate=True)
    assert len(folded.ops) == len(folded.module_calls) == len(folded.allocations) == 0
    assert sums_of_ops(folded) == sums_of_ops(whole)
    assert sums_of_calls(folded) == sums_of_calls(whole)
    assert rows_of_modules(folded) == rows_of_modules(whole)

    def by_op(trace: Trace) -> dict[str, list[float]]:
        columns = ("calls", "flops", "bytes", "allocated", "intensity")
        return {row["name"]: [row[name] for name in columns] for row in torchprof.by_op(trace).rows}

    assert by_op(folded) == by_op(whole)
    for column in ("number", "warmup", "allocated", "peak", "held"):
        assert folded.steps[column].tolist() == whole.steps[column].tolist(), column


def test_times_of_folded_steps_are_disjoint_and_add_up() -> None:
    trace = record(mixed, steps=10, aggregate=True)
    rows = torchprof.by_module(trace).rows
    for at, row in enumerate(rows):
        below = [row]
        for other in rows[at + 1 :]:
            if other["depth"] <= row["depth"]:
                break
            below.append(other)
        assert sum(each["self"] for each in below) == pytest.approx(row["time"], rel=1e-9)
    totals = trace.op_totals
    assert (totals["min"] * totals["count"] <= totals["time"]).all()
    assert (totals["time"] <= totals["max"] * totals["count"]).all()
    assert (totals["self_time"] <= totals["time"]).all()
    spent = sum(row["time"] for row in rows if row["depth"] == 0)
    assert spent == pytest.approx((trace.steps["end"] - trace.steps["start"]).mean(), rel=1e-9)


def test_a_run_of_any_length_takes_constant_memory() -> None:
    model, data = mixed()
    update = torch.optim.AdamW(model.parameters())
    recorder: list[int] = []
    folded: list[int] = []

    def run(steps: int) -> Trace:
        with torchprof.profile(model, aggregate=True, budget=2**24) as prof:
            for number in range(steps):
                loss_of(model(**data)).backward()
                update.step()
                update.zero_grad()
                recorder.append(_C.bytes())
                prof.step()
                folded.append(_C.bytes() - number * LAYOUTS["steps"].itemsize)
        return prof.trace

    run(2)  # the optimizer makes its state
    recorder.clear()
    folded.clear()
    short, long = run(5), run(40)
    assert long.losses == {}
    assert len(set(folded[5:])) == 1  # what the step recorded is folded, and gone
    assert max(recorder[-40:]) <= 1.1 * max(recorder[:5])
    per_step = long.steps.nbytes / len(long.steps)
    assert len(long.steps) == 40
    assert long.nbytes - long.steps.nbytes == short.nbytes - short.steps.nbytes
    assert per_step <= 104
    with torchprof.profile(model, budget=2**24) as prof:
        for _ in range(40):
            loss_of(model(**data)).backward()
            update.step()
            prof.step()
    assert prof.trace.nbytes > 10 * long.nbytes


def test_warm_up_steps_are_in_the_steps_and_not_in_the_sums() -> None:
    options = {"schedule": torchprof.schedule(wait=1, warmup=2, active=2)}
    whole, folded = record(mixed, steps=6, **options), record(mixed, steps=6, aggregate=True, **options)
    assert folded.steps["warmup"].tolist() == [1, 1, 0, 0]
    assert folded.steps["number"].tolist() == [1, 2, 3, 4]
    assert sums_of_ops(folded) == sums_of_ops(whole)
    calls = {path: count for (path, recomputed), count in sums_of_calls(folded).items() if not recomputed}
    assert (calls["first"], calls["twice"]) == (2, 4)


def test_without_steps_the_whole_recording_is_folded() -> None:
    def run(aggregate: bool) -> Trace:
        torch.manual_seed(0)
        model, data = mixed()
        with torchprof.profile(model, aggregate=aggregate) as prof:
            loss_of(model(**data)).backward()
        return prof.trace

    assert sums_of_ops(run(True)) == sums_of_ops(run(False))


def test_what_needs_single_allocations_says_that_they_are_gone() -> None:
    trace = record(mixed, aggregate=True)
    with pytest.raises(torchprof.ArgumentError, match="aggregate=True"):
        torchprof.memory(trace)
    rows = torchprof.by_step(trace).rows
    assert [row["ops"] for row in rows] == [None] * 4
    assert all(row["peak"] > 0 for row in rows)


def test_blocks_from_before_that_are_given_back_are_not_taken_off_what_is_held() -> None:
    model, data = mixed()
    loss_of(model(**data)).backward()
    for aggregate in (True, False):
        with torchprof.profile(model, aggregate=aggregate) as prof:
            model.zero_grad()
            kept = torch.ones(1000)
            prof.step()
            del kept
            prof.step()
        assert prof.trace.steps["held"].tolist() == [4000, 0]
        loss_of(model(**data)).backward()


def test_an_aggregated_trace_is_saved_and_read(tmp_path: Any) -> None:
    trace = record(mixed, aggregate=True)
    trace.save(tmp_path / "sums.torchprof")
    read = torchprof.load(tmp_path / "sums.torchprof")
    assert str(torchprof.by_module(read)) == str(torchprof.by_module(trace))
    assert str(torchprof.by_op(read)) == str(torchprof.by_op(trace))
    assert np.array_equal(read.op_totals, trace.op_totals)
