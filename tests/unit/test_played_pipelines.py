"""Schedules of pipelines, played: how long they take at least, and how long ranks wait, beside what is counted by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from handwritten import trace

from torchprof import Ceilings
from torchprof.estimation.bounds.bound_of import bound_of
from torchprof.estimation.bounds.pipeline import Action, PipelineWork, played
from torchprof.estimation.bounds.stage_flops import stage_flops
from torchprof.trace.schema import SCOPE_USER

HALF = 5

Orders = tuple[tuple[Action, ...], ...]


def order(*names: str) -> tuple[Action, ...]:
    """Actions by their names, of stages and microbatches below 10; ``"0F1+"`` runs at once with the next one."""
    return tuple(Action(int(name[0]), name[1], int(name[2]), name.endswith("+")) for name in names)


def gpipe(ranks: int, microbatches: int) -> Orders:
    return tuple(order(*(f"{rank}{kind}{each}" for kind in "FB" for each in range(microbatches))) for rank in range(ranks))


def one_f_one_b(ranks: int, microbatches: int) -> Orders:
    orders = []
    for rank in range(ranks):
        ahead = min(ranks - 1 - rank, microbatches)
        names = [f"{rank}F{each}" for each in range(ahead)]
        for each in range(microbatches):
            names += [f"{rank}F{each + ahead}"] if each + ahead < microbatches else []
            names.append(f"{rank}B{each}")
        orders.append(order(*names))
    return tuple(orders)


def times(orders: Orders, **kinds: float) -> dict[str, float]:
    return {each.name: kinds[each.kind] for actions in orders for each in actions}


@pytest.mark.parametrize("schedule", [gpipe, one_f_one_b])
@pytest.mark.parametrize(("ranks", "microbatches"), [(1, 4), (2, 4), (4, 8), (4, 2)])
def test_equal_stages_wait_as_long_as_is_published(
    schedule: Callable[[int, int], Orders], ranks: int, microbatches: int
) -> None:
    orders = schedule(ranks, microbatches)
    for rank in range(ranks):
        found = played(orders, times(orders, F=1.0, B=2.0), rank=rank)
        assert found.busy == 3.0 * microbatches
        assert found.bubble == pytest.approx(3.0 * (ranks - 1))


def test_weights_fill_the_bubble_of_backward() -> None:
    full, halved = (order("0F0", "0F1", "0B0", "0B1"), order("0F0", "0F1", "0I0", "0W0", "0I1", "0W1"))
    last_full, last_halved = order("1F0", "1B0", "1F1", "1B1"), order("1F0", "1I0", "1F1", "1I1", "1W0", "1W1")
    whole = played([full, last_full], times((full, last_full), F=1.0, B=2.0))
    parts = played([halved, last_halved], times((halved, last_halved), F=1.0, I=1.0, W=1.0))
    assert whole.busy == parts.busy == 6.0
    assert (whole.batch, parts.batch) == (9.0, 7.0)


def test_a_slow_stage_makes_all_others_wait() -> None:
    orders = one_f_one_b(2, 4)
    seconds = {name: 3 * time if name.startswith("1") else time for name, time in times(orders, F=1.0, B=2.0).items()}
    assert played(orders, seconds, rank=1) == (1 + 36 + 2, 36)
    assert played(orders, seconds, rank=0).bubble == 39 - 12


def test_a_further_pass_begins_when_the_first_rank_is_done() -> None:
    orders = gpipe(2, 2)
    once, twice = (played(orders, times(orders, F=1.0, B=2.0), passes) for passes in (1, 2))
    assert (once.batch, twice.busy) == (9.0, 12.0)
    assert twice.batch == 18.0  # it is done last


def test_what_runs_at_once_may_be_done_as_if_alone() -> None:
    first, last = order("0F0", "0F1+", "0B0", "0B1"), order("1F0", "1B0", "1F1", "1B1")
    one_by_one = order("0F0", "0F1", "0B0", "0B1")
    seconds = times((first, last), F=1.0, B=2.0)
    assert played([first, last], seconds).batch <= played([one_by_one, last], seconds).batch + 1.0


def test_what_never_comes_is_not_waited_for() -> None:
    assert played([order("0F0", "0B0"), order("1B0", "1F0")], {"0F0": 1.0}).batch == 1.0


def a_rank(stage: int, forward: int, backward: int) -> PipelineWork:
    flops = {
        f"{stage}{kind}{each}": {"float16": count} for each in range(4) for kind, count in (("F", forward), ("B", backward))
    }
    return PipelineWork(one_f_one_b(2, 4), flops, 1, stage)


def test_the_bound_of_a_step_has_the_bubble_once_all_stages_are_known() -> None:
    rates = Ceilings("a GPU", "float16", 0, 1e12, 1e12)
    work = a_rank(0, 10**9, 2 * 10**9)
    step = trace(
        strings=["aten::mm"],
        tensors=[{"dtype": HALF}],
        operands=[0],
        signatures=[{"name": 0, "n_inputs": 1, "flops": 12 * 10**9}],
        ops=[{"end": 5}],
        steps=[{"end": 10}],
    )
    alone = bound_of(step, (), "cuda", None, rates, None, work)
    assert (alone.compute, alone.step, alone.bubble) == (0.012, 0.012, None)
    assert alone.unknown == ("the bubble of the pipeline: what is computed in stage 1 is known with ranks='all'",)
    both = bound_of(step, (), "cuda", None, rates, None, work.with_others([a_rank(1, 10**9, 2 * 10**9)]))
    assert both.unknown == ()
    assert both.bubble == pytest.approx(0.003)
    assert both.step == pytest.approx(0.015)
    assert both.mfu == pytest.approx(0.8)
    assert "computing 12.0 ms, a bubble of 3.00 ms: 25.0% of it, sending nothing" in str(both)


def test_flops_of_an_action_are_those_of_ops_in_its_range() -> None:
    rows = [
        ("PP:0F0", 0, 10, -1),
        ("PP:0F0", 0, 10, 0),  # PyTorch's own
        ("aten::mm", 1, 3, 1),
        ("aten::mm", 4, 6, 1),
        ("PP:0B0", 20, 30, -1),
        ("aten::mm", 21, 22, 4),
        ("aten::mm", 40, 41, -1),  # of the optimizer
    ]
    names = [*dict.fromkeys(name for name, *_ in rows)]
    product = names.index("aten::mm")
    step = trace(
        strings=names,
        tensors=[{"dtype": HALF}],
        operands=[0],
        signatures=[
            {"name": row, "n_inputs": int(row == product), "flops": 100 if row == product else -1} for row in range(len(names))
        ],
        ops=[
            {
                "signature": names.index(name),
                "start": start,
                "end": end,
                "parent": parent,
                "scope": 0 if name == "aten::mm" else SCOPE_USER,
            }
            for name, start, end, parent in rows
        ],
        steps=[{"end": 100}],
    )
    assert stage_flops(step) == ({"0F0": {"float16": 200}, "0B0": {"float16": 100}}, 1)
