"""``profile(aggregate=True)`` where every step has other shapes: constant memory, and sums that are exact."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import torchprof
from torchprof import _C
from torchprof.trace.trace import Trace

MERGED = "ran with further shapes than the first"
EXACT = "name path type depth calls flops_forward flops_backward flops bytes allocated params".split()


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 8))


def record(model: nn.Module, inputs: Iterable[Tensor], after_step: Callable[[], object] = int, **options: Any) -> Trace:
    update = torch.optim.SGD(model.parameters(), lr=0.01)
    with torchprof.profile(model, **options) as prof:
        for x in inputs:
            model(x).square().mean().backward()
            update.step()
            update.zero_grad()
            prof.step()
            after_step()
    return prof.trace


def growing(steps: int, first: int = 1) -> Iterable[Tensor]:
    return (torch.ones(first + step, 16) for step in range(steps))


def test_memory_is_constant_though_every_step_has_other_shapes() -> None:
    taken: list[int] = []
    trace = record(network(), growing(700), lambda: taken.append(_C.bytes()), aggregate=True)
    assert len(trace.op_totals) < 2_000
    assert len(trace.signatures) < 2_000
    assert trace.losses == {}
    assert max(taken[350:]) <= 1.05 * max(taken[:350])
    assert max(taken) < 4 * 2**20
    assert trace.nbytes - trace.steps.nbytes < 2**20


def test_a_step_with_many_sums_that_the_next_ones_have_again_is_not_merged() -> None:
    with torchprof.profile(aggregate=True, modules=False, memory=False, stacks=False) as prof:
        for _ in range(3):
            for size in range(1, 4_500):  # more than are merged where they come one step after the other
                torch.ones(size)
            prof.step()
    totals = prof.trace.op_totals
    assert len(totals) >= 4_499
    assert (totals["merged"] == 0).all()
    assert (totals["count"] % 3 == 0).all()


def by_op(trace: Trace) -> dict[str, list[float]]:
    columns = ("calls", "flops", "bytes", "allocated", "intensity", "flops_unknown")
    return {row["name"]: [row[name] for name in columns] for row in torchprof.by_op(trace).rows}


def test_sums_are_those_of_the_whole_trace_to_the_last_flop_and_byte() -> None:
    whole, folded = (record(network(), growing(400), aggregate=aggregate) for aggregate in (False, True))
    assert (folded.op_totals["merged"] > 0).any()
    assert by_op(folded) == by_op(whole)
    rows = [[[row[name] for name in EXACT] for row in torchprof.by_module(trace).rows] for trace in (folded, whole)]
    assert rows[0] == rows[1]
    for phase in ("forward", "backward", "optimizer"):
        calls = [{row["name"]: row["calls"] for row in torchprof.by_op(each, phase=phase).rows} for each in (folded, whole)]
        assert calls[0] == calls[1]
    totals = folded.op_totals
    assert (totals["min"] * totals["count"] <= totals["time"]).all()
    assert (totals["time"] <= totals["max"] * totals["count"]).all()


def test_the_first_shapes_are_kept_and_the_others_are_one_row_that_says_so() -> None:
    trace = record(network(), growing(400), aggregate=True)
    table = torchprof.by_op(trace, shapes=True, phase="forward", module="0")
    addmm = [row for row in table.rows if row["name"] == "aten::addmm"]
    kept = [row["shapes"][1] for row in addmm if row["shapes"] is not None]
    assert sorted(kept) == [[rows, 16] for rows in range(1, 17)]
    (other,) = (row for row in addmm if row["shapes"] is None)
    assert other["calls"] * 400 == pytest.approx(400 - 16)
    assert other["flops"] * 400 == pytest.approx(sum(2 * rows * 16 * 32 for rows in range(17, 401)))
    assert "other shapes" in str(table)
    for text in (str(table), str(torchprof.by_op(trace)), str(torchprof.by_module(trace))):
        assert "Other shapes: " in text
        assert f"{MERGED} 16 of an op in a module, and are summed up together" in text


def test_a_program_with_few_shapes_keeps_them_all() -> None:
    trace = record(network(), (torch.ones(1 + step % 20, 16) for step in range(300)), aggregate=True)
    assert not trace.op_totals["merged"].any()
    assert MERGED not in str(torchprof.by_op(trace))


def test_a_program_with_many_modules_and_one_shape_keeps_everything() -> None:
    model = nn.Sequential(*(nn.Linear(16, 16) for _ in range(150)))
    trace = record(model, (torch.ones(2, 16) for _ in range(4)), aggregate=True)
    assert len(trace.op_totals) > 4096
    assert not trace.op_totals["merged"].any()


def test_an_op_whose_flops_are_unknown_is_unknown_when_it_is_merged() -> None:
    class Unknown(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            solution: Tensor = torch.linalg.lstsq(x, x).solution
            return solution

    whole, folded = (record_forward(Unknown(), aggregate=aggregate) for aggregate in (False, True))
    assert (folded.op_totals["merged"] > 0).any()
    assert by_op(folded) == by_op(whole)
    assert any(row["flops_unknown"] for row in torchprof.by_op(folded).rows)


def record_forward(model: nn.Module, **options: Any) -> Trace:
    with torchprof.profile(model, **options) as prof:
        for step in range(1, 320):
            for columns in range(1, 3):
                model(torch.ones(step, columns))
            prof.step()
    return prof.trace


def test_a_small_budget_keeps_fewer_shapes_and_says_so() -> None:
    taken: list[int] = []
    trace = record(network(), growing(300), lambda: taken.append(_C.bytes()), aggregate=True, budget=2**20)
    whole = record(network(), growing(300))
    assert max(taken) <= 2**20
    assert trace.losses == {}
    assert by_op(trace) == by_op(whole)
    assert trace.facts["shapes_kept"] in (1, 4, 16)


def test_what_a_budget_has_no_room_for_is_counted_and_said() -> None:
    layers = nn.ModuleList(nn.Identity() for _ in range(4_000))  # a row for each, and nothing to merge
    taken: list[int] = []
    with torchprof.profile(layers, aggregate=True, budget=2**20) as prof:
        for number, layer in enumerate(layers):
            layer(torch.ones(2)).neg()
            if number % 100 == 99:
                prof.step()
                taken.append(_C.bytes())
    trace = prof.trace
    assert max(taken) <= 2**20
    assert int(trace.call_totals["count"].sum()) + trace.losses["module_calls"] == 4_000
    assert trace.losses["module_calls"] > 0
    assert "INCOMPLETE" in str(torchprof.by_module(trace))


def test_cycles_merge_each_on_its_own() -> None:
    plan = torchprof.schedule(active=200, repeat=2)
    model = network()
    with torchprof.profile(model, aggregate=True, schedule=plan) as prof:
        for x in growing(400):
            model(x)
            prof.step()
    first, second = prof.traces
    assert [len(trace.steps) for trace in prof.traces] == [200, 200]
    assert second.op_totals["count"].sum() == first.op_totals["count"].sum()


def test_merged_sums_are_saved_and_read(tmp_path: Any) -> None:
    trace = record(network(), growing(300), aggregate=True)
    trace.save(tmp_path / "sums.torchprof")
    read = torchprof.load(tmp_path / "sums.torchprof")
    assert str(torchprof.by_op(read, shapes=True)) == str(torchprof.by_op(trace, shapes=True))
    assert str(torchprof.by_module(read)) == str(torchprof.by_module(trace))
