"""What a recording holds after many steps, each of which has something new. `dev.py soak` looks at it for minutes."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import torch
from fake_gpu import FakeGpu
from torch import Tensor, nn
from torch.profiler import record_function

import torchprof
from torchprof import _C
from torchprof.trace.schema import LAYOUTS, NO_NAME
from torchprof.trace.trace import Trace

ROW_OF_STEP = LAYOUTS["steps"].itemsize


def recorded(steps: int, step: Callable[[int], object], model: nn.Module | None = None) -> tuple[Trace, list[int]]:
    """The trace, and the bytes that the recording took after each step, beside a row for each."""
    taken = []
    with torchprof.profile(model, aggregate=True) as prof:
        for number in range(steps):
            step(number)
            prof.step()
            taken.append(_C.bytes() - (number + 1) * ROW_OF_STEP)
    assert prof.trace.losses == {}
    return prof.trace, taken


def is_flat(taken: list[int], *, tolerated: float) -> bool:
    """Whether the last third holds no more than the third before it."""
    third = len(taken) // 3
    return max(taken[-third:]) <= (1 + tolerated) * max(taken[-2 * third : -third])


class Head(nn.Module):
    """One that the model makes in each forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x).relu()


class Remade(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stays = nn.Linear(2, 2)
        self.made: list[Head] = []

    def forward(self, x: Tensor) -> Tensor:
        self.made.append(Head())  # which is kept: no later one has its address
        return self.made[-1](self.stays(x))


STEPS = 2000


def test_modules_that_are_made_in_each_step_take_no_more_and_more_memory() -> None:
    model, x = Remade(), torch.ones(1, 2)
    trace, taken = recorded(STEPS, lambda _: model(x).sum().backward(), model)
    assert is_flat(taken, tolerated=0.1)
    assert max(taken) < 6 * 2**20
    rows = {row["path"]: row for row in torchprof.by_module(trace).rows}
    others = rows["<other Head>"]
    assert others["calls"] > rows["<Head>"]["calls"] > 0
    assert others["calls"] + rows["<Head>"]["calls"] == pytest.approx(1)
    assert rows["<other Head>.<other Linear>"]["calls"] == others["calls"]
    assert rows["stays"]["calls"] == 1, "those of the model keep sums of their own"
    assert "summed up by class and caller" in str(torchprof.by_module(trace))
    assert not trace.op_totals["merged"].any(), "there is one shape of each op"


def test_sums_with_modules_that_were_merged_are_those_of_the_whole_trace() -> None:
    def by_op(**options: bool) -> dict[str, list[float]]:
        model, x = Remade(), torch.ones(1, 2)
        with torchprof.profile(model, **options) as prof:
            for _ in range(900):
                model(x).sum().backward()
                prof.step()
        table = torchprof.by_op(prof.trace)
        return {row["name"]: [row[name] for name in ("calls", "flops", "bytes", "allocated")] for row in table.rows}

    assert by_op(aggregate=True) == by_op()


def test_modules_that_are_called_again_and_again_keep_sums_of_their_own_in_no_model() -> None:
    layers = [nn.Linear(2, 2) for _ in range(40)]

    def step(number: int) -> None:
        Head()(layers[number % 40](torch.ones(1 + number % 30, 2)))

    trace, _ = recorded(1500, step)
    addresses = set(trace.modules["address"].tolist())
    assert addresses >= {id(layer) for layer in layers}


def test_threads_that_come_and_go_leave_nothing_behind() -> None:
    def work() -> None:
        torch.ones(2).neg_()

    def step(_: int) -> None:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()

    trace, taken = recorded(400, step)
    assert is_flat(taken, tolerated=0.3)  # the logs of a step, which may not have been added up yet
    assert sum(trace.op_totals["stack"] >= 0) > 0


def test_stacks_of_threads_that_come_and_go_take_no_more_than_the_budget_of_sums() -> None:
    budget, taken = 2**20, []
    with torchprof.profile(aggregate=True, budget=budget) as prof:
        for number in range(1000):
            name = f"function_{number}_{'x' * 2000}"
            made: dict[str, Callable[[Tensor], Tensor]] = {}
            exec(f"def {name}(x):\n    return x.neg()", made)
            thread = threading.Thread(target=made[name], args=(torch.ones(2),))
            thread.start()
            thread.join()
            prof.step()
            taken.append(_C.bytes())
    assert max(taken) <= 1.5 * budget
    assert prof.trace.losses.keys() == {"stacks"}, "ops whose stacks have no room are in the sums"
    assert 10 < sum(len(text) > 2000 for text in prof.trace.strings) <= budget // 2 // 2000
    assert int(prof.trace.op_totals["count"].sum()) == 4000  # of which torch.ones() has three


def test_code_that_is_made_and_dropped_takes_no_more_and_more_of_the_budget() -> None:
    def step(_: int) -> None:
        made: dict[str, Callable[[Tensor], Tensor]] = {}
        exec("def function(x):\n    return x.neg()", made)
        made["function"](torch.ones(2))

    _, taken = recorded(400, step)
    assert taken[-1] == taken[len(taken) // 2]


def test_ranges_with_ever_new_names_are_summed_up_under_one() -> None:
    def step(number: int) -> None:
        for part in range(3):
            with record_function(f"part {part} of step {number}"):
                torch.ones(2)

    trace, taken = recorded(3000, step)
    assert max(taken) <= 1.4 * max(taken[:1400])  # when sums are merged for the first time, of 4,200 names
    rows = {row["name"]: row for row in torchprof.by_op(trace).rows}
    named = [name for name in rows if name.startswith("part ")]
    assert len(named) < 9000
    assert round(rows["other ranges"]["calls"] * 3000) + len(named) == 9000
    assert "part 0 of step 0" in named, "the first keep their names"
    assert "with further names than the first" in str(torchprof.by_op(trace))


def test_kernels_are_summed_up_with_the_modules_and_ranges_that_launched_them(gpu: FakeGpu) -> None:
    class Launching(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            gpu.launch("of_a_module")
            return x * 2

    made, x = [], torch.ones(1)
    with torchprof.profile(gpu="cupti", aggregate=True) as prof:
        for number in range(STEPS):
            with record_function(f"range {number}"):
                gpu.launch("of_a_range")
            made.append(Launching())
            made[-1](x)
            prof.step()
    trace, totals = prof.trace, prof.trace.kernel_totals
    names = [(trace.strings[row["name"]], trace.strings[row["op"]] if row["op"] != NO_NAME else "") for row in totals]
    assert sum(totals["count"][at] for at, (name, _) in enumerate(names) if name == "of_a_module") == STEPS
    of_ranges = {op: int(totals["count"][at]) for at, (name, op) in enumerate(names) if name == "of_a_range"}
    assert sum(of_ranges.values()) == STEPS
    assert of_ranges["other ranges"] > of_ranges["range 0"] == 1
    assert len(totals) == len({tuple(row)[5:] for row in totals.tolist()}) < STEPS
    assert sum(trace.op_totals["kernels"]) == STEPS, "those of ranges: the others were launched in no op"


def test_names_of_marks_are_not_kept_beyond_their_step() -> None:
    taken = []
    with torchprof.profile(aggregate=True) as prof:
        for number in range(300):
            torch.ones(2)
            prof.mark(f"mark {number}")
            prof.step()
            taken.append(_C.bytes() - (number + 1) * ROW_OF_STEP)
    assert taken[-1] == taken[100]
    assert not any(text.startswith("mark ") for text in prof.trace.strings)
