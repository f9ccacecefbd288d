"""What a step is, in a program that does not say it: found by `torchprof run`."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from run_programs import record
from torch import nn

import torchprof


def small() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4))


def loop(steps: int, model: nn.Module | None = None, optimizer: torch.optim.Optimizer | None = None) -> None:
    model = small() if model is None else model
    optimizer = torch.optim.SGD(model.parameters(), 0.1) if optimizer is None else optimizer
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.ones(2, 4)).sum().backward()
        optimizer.step()


def calls(trace: torchprof.Trace, kind: str = "Linear") -> list[int]:
    """How often modules of this class were called in every step."""
    made = trace.module_calls
    of_kind = [trace.strings[row] == kind for row in trace.modules["type"][made["module"]]]
    return [int(((made["start"] >= step["start"]) & (made["end"] <= step["end"]) & of_kind).sum()) for step in trace.steps]


def ops(trace: torchprof.Trace, name: str) -> list[int]:
    """How often an op ran in every step."""
    named = [trace.strings[row] == name for row in trace.signatures["name"][trace.ops["signature"]]]
    return [
        int(((trace.ops["start"] >= step["start"]) & (trace.ops["start"] < step["end"]) & named).sum()) for step in trace.steps
    ]


def recorded(folder: Path, program: Callable[[], object], **options: object) -> torchprof.Trace:
    trace, _ = record(folder, program, **options)
    assert trace is not None
    return trace


def test_a_step_ends_when_the_optimizer_has_stepped(tmp_path: Path) -> None:
    trace, outcome = record(tmp_path, lambda: loop(4))
    assert trace is not None
    assert trace.steps["number"].tolist() == [0, 1, 2, 3]
    assert calls(trace) == [2, 2, 2, 2]
    assert ops(trace, "aten::add_") == [4, 4, 4, 4]  # of SGD, one a parameter
    assert (outcome.steps, outcome.steps_by) == (4, "optimizer")
    assert trace.steps["warmup"].tolist() == [1, 0, 0, 0]  # of itself the first step is slower


def test_the_first_step_begins_with_the_model(tmp_path: Path) -> None:
    def program() -> None:
        for _ in range(5):
            torch.ones(3).cumsum(0)  # no part of any step
        loop(2)
        torch.ones(3).cumsum(0)

    trace = recorded(tmp_path, program)
    assert ops(trace, "aten::cumsum") == [0, 0]
    assert [trace.strings[row] for row in trace.signatures["name"]].count("aten::cumsum") == 1  # after the last step


def test_the_first_step_is_warmup_whichever_steps_were_asked_for(tmp_path: Path) -> None:
    assert recorded(tmp_path, lambda: loop(6), last=4).steps["warmup"].tolist() == [1, 0, 0, 0]
    assert recorded(tmp_path, lambda: loop(6), first=1, last=4).steps["warmup"].tolist() == [0, 0, 0]
    assert recorded(tmp_path, lambda: loop(6), last=2).steps["warmup"].tolist() == [0, 0]  # of two, there is not much to choose
    assert recorded(tmp_path, lambda: loop(6), last=2, aggregate=True).steps["warmup"].tolist() == [0, 0]


def by_op_and_by_line(trace: torchprof.Trace) -> list[float]:
    return [sum(row["self"] or 0 for row in table(trace).rows) for table in (torchprof.by_op, torchprof.by_line)]


def test_the_tables_add_up_to_the_steps(tmp_path: Path) -> None:
    def program() -> None:
        with torch.profiler.record_function("all of it"):  # which is open when a step ends, as that of the optimizer is
            loop(12)

    trace = recorded(tmp_path, program)
    active = trace.steps[trace.steps["warmup"] == 0]
    step = (active["end"] - active["start"]).mean()
    of_ops, of_lines = by_op_and_by_line(trace)
    assert of_lines == pytest.approx(step)
    assert of_ops < step
    assert sum(row["self"] for row in torchprof.by_module(trace).rows) == pytest.approx(step)


def with_evaluations(steps: int, each: int, evaluate: Callable[[nn.Module], object]) -> None:
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for step in range(steps):
        loop(1, model.train(), optimizer)
        if step % each == each - 1:
            evaluate(model)


def without_gradients(model: nn.Module) -> None:
    with torch.no_grad():
        model(torch.ones(2, 4))


@pytest.mark.parametrize("evaluate", [without_gradients, lambda model: model.eval()(torch.ones(2, 4))])
def test_steps_with_an_evaluation_are_left_out(tmp_path: Path, evaluate: Callable[[nn.Module], object]) -> None:
    trace = recorded(tmp_path, lambda: with_evaluations(12, 4, evaluate))
    assert calls(trace) == [2, 2, 2, 2, 4, 2, 2, 2, 4, 2, 2, 2]
    assert np.flatnonzero(trace.steps["warmup"]).tolist() == [0, 4, 8]
    assert trace.facts["evaluation_steps"] == [4, 8]
    remark = "Evaluation: in steps 4 and 8 a model was also called without gradients or in eval mode; left out, as warm-up is"
    assert remark in str(torchprof.by_module(trace))


def test_a_model_that_is_evaluated_last_is_one_in_training(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(4).eval())
    optimizer = torch.optim.SGD(model.parameters(), 0.1)

    def program() -> None:
        for _ in range(4):
            model(torch.ones(2, 2, 5, 5)).sum().backward()
            optimizer.step()
        with torch.no_grad():
            model.eval()(torch.ones(2, 2, 5, 5))

    trace = recorded(tmp_path, program)
    assert trace.model is not None
    assert [info.training for info in trace.model.modules] == [True, True, True, False]
    assert [found.rule for found in torchprof.findings(trace)] == ["bias_before_norm"]


def test_a_step_whose_kind_is_to_evaluate_too_is_a_step(tmp_path: Path) -> None:
    trace = recorded(tmp_path, lambda: with_evaluations(6, 1, without_gradients))
    assert trace.steps["warmup"].tolist() == [1, 0, 0, 0, 0, 0]
    assert "evaluation_steps" not in trace.facts


def test_sums_name_the_steps_with_an_evaluation(tmp_path: Path) -> None:
    trace = recorded(tmp_path, lambda: with_evaluations(12, 4, without_gradients), last=None, aggregate=True)
    assert np.flatnonzero(trace.steps["warmup"]).tolist() == [0]
    assert trace.facts["evaluation_steps"] == [4, 8]
    assert "in eval mode; they are in the means" in str(torchprof.by_module(trace))


def test_gradients_that_are_accumulated_are_of_one_step(tmp_path: Path) -> None:
    def program() -> None:
        model = small()
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        for batch in range(6):
            model(torch.ones(2, 4)).sum().backward()
            if batch % 3 == 2:
                optimizer.step()

    assert calls(recorded(tmp_path, program)) == [6, 6]


def test_optimizers_that_step_in_turns_make_one_step(tmp_path: Path) -> None:
    def program() -> None:
        makes, tells = small(), small()
        of_makes, of_tells = (torch.optim.Adam(each.parameters()) for each in (makes, tells))
        for _ in range(3):
            for _ in range(2):
                tells(makes(torch.ones(2, 4))).sum().backward()
                of_tells.step()
            tells(makes(torch.ones(2, 4))).sum().backward()
            of_makes.step()

    assert calls(recorded(tmp_path, program)) == [12, 12, 12]


def test_an_optimizer_that_never_steps_is_not_waited_for_long(tmp_path: Path) -> None:
    idle = torch.optim.SGD(small().parameters(), 0.1)
    trace = recorded(tmp_path, lambda: loop(14))
    assert calls(trace) == [20, 2, 2, 2, 2]
    assert idle.state == {}


@pytest.mark.parametrize("kept", [True, False], ids=["the old one is kept", "the old one is gone"])
def test_an_optimizer_that_takes_the_place_of_another_joins_no_iterations(tmp_path: Path, kept: bool) -> None:
    def program() -> None:
        model = small()
        optimizers = [torch.optim.SGD(model[2].parameters(), 0.1)]  # the head alone, and then all of it
        for step in range(6):
            if step == 3:
                del optimizers[: 0 if kept else 1]
                optimizers += [torch.optim.Adam(model.parameters())]
            model(torch.ones(2, 4)).sum().backward()
            optimizers[-1].step()

    assert calls(recorded(tmp_path, program)) == [2] * 6


def test_a_model_on_another_thread_is_told(tmp_path: Path) -> None:
    def program() -> None:
        thread = threading.Thread(target=loop, args=(3,))
        thread.start()
        thread.join()

    trace, outcome = record(tmp_path, program)
    assert trace is not None
    assert len(trace.steps) == 0
    assert trace.model is not None
    assert outcome.is_elsewhere


def test_two_phases_of_training_have_their_own_steps(tmp_path: Path) -> None:
    def program() -> None:
        models = small(), small()
        optimizers = [torch.optim.SGD(model.parameters(), 0.1) for model in models[:1]]
        loop(3, models[0], optimizers[0])
        optimizers += [torch.optim.Adam(model.parameters()) for model in models]  # beside the first one, which steps no more
        loop(3, models[0], optimizers[1])
        loop(4, models[1], optimizers[2])
        loop(4, models[0], optimizers[1])

    # Of the same parameters, others, and those of before; that a phase is over is known when an optimizer steps again.
    assert calls(recorded(tmp_path, program)) == [2, 2, 2, 2, 2, 2, 4, 2, 2, 4, 2, 2]


class Outer(torch.optim.Optimizer):
    """Leaves the work to another, as ``ZeroRedundancyOptimizer`` does."""

    def __init__(self, parameters: list[nn.Parameter], of_inner: list[nn.Parameter]) -> None:
        super().__init__(parameters, {})
        self.inner = torch.optim.SGD(of_inner, 0.1)

    def step(self, closure: object = None) -> None:  # type: ignore[override]
        self.inner.step()


@pytest.mark.parametrize("shard", [0, 2])
def test_an_optimizer_inside_another_does_not_count(tmp_path: Path, shard: int) -> None:
    def program() -> None:
        model = small()
        parameters = list(model.parameters())
        loop(4, model, Outer(parameters, parameters[shard:]))

    assert calls(recorded(tmp_path, program)) == [2, 2, 2, 2]


def test_a_step_with_a_closure_is_one(tmp_path: Path) -> None:
    def program() -> None:
        model = small()
        optimizer = torch.optim.LBFGS(model.parameters(), max_iter=3)

        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            loss = model(torch.ones(2, 4)).square().sum()
            loss.backward()
            return loss

        for _ in range(2):
            optimizer.step(closure)

    trace = recorded(tmp_path, program)
    assert len(trace.steps) == 2
    assert all(count > 2 for count in calls(trace))


def test_an_iteration_that_raises_belongs_to_the_next_step(tmp_path: Path) -> None:
    def program() -> None:
        model = small()
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        for batch in range(3):
            optimizer.zero_grad()
            try:
                model(torch.ones(2, 4 if batch != 1 else 5)).sum().backward()
            except RuntimeError:
                continue
            optimizer.step()

    trace = recorded(tmp_path, program)
    assert len(trace.steps) == 2
    assert ops(trace, "aten::add_") == [4, 4]


def test_without_optimizers_a_step_is_a_call_of_the_model(tmp_path: Path) -> None:
    def program() -> None:
        model, other, loss = small().eval(), nn.Linear(4, 4), nn.MSELoss()
        with torch.no_grad():
            for _ in range(3):
                loss(other(model(torch.ones(2, 4))), torch.ones(2, 4))

    trace, outcome = record(tmp_path, program)
    assert trace is not None
    assert (len(trace.steps), outcome.steps, outcome.steps_by) == (3, 3, "forward")
    assert calls(trace) == [2, 3, 3]  # the call of the first model ends a step


def test_steps_before_there_was_an_optimizer_are_left_out_of_tables(tmp_path: Path) -> None:
    def program() -> None:
        model = small()
        for _ in range(2):
            model(torch.ones(2, 4))  # to see that it works
        loop(3, model)

    trace = recorded(tmp_path, program)
    assert calls(trace) == [2, 2, 2, 0, 2, 2]  # two to see, and the first one in two
    assert trace.steps["warmup"].tolist() == [1, 1, 1, 1, 0, 0]


def test_parameters_without_modules_have_steps_too(tmp_path: Path) -> None:
    def program() -> None:
        weight = nn.Parameter(torch.ones(4, 4))
        optimizer = torch.optim.SGD([weight], 0.1)
        for _ in range(4):
            (weight @ weight).sum().backward()
            optimizer.step()

    trace, outcome = record(tmp_path, program)
    assert trace is not None
    assert trace.steps["number"].tolist() == [1, 2, 3]  # where the first one began is not known
    assert ops(trace, "aten::mm") == [3, 3, 3]
    assert (outcome.steps, outcome.models) == (4, 0)


def test_without_models_and_optimizers_all_is_one_recording(tmp_path: Path) -> None:
    trace, outcome = record(tmp_path, lambda: torch.ones(4, 4) @ torch.ones(4, 4))
    assert trace is not None
    assert [trace.strings[row] for row in trace.signatures["name"]].count("aten::mm") == 1
    assert (len(trace.steps), outcome.steps, outcome.models, trace.model) == (0, 0, 0, None)


def batches(then: Callable[[torch.Tensor], object]) -> None:
    for batch in torch.utils.data.DataLoader(torch.ones(6, 4), 2):
        then(batch)


def test_steps_can_be_batches(tmp_path: Path) -> None:
    model = small()
    trace = recorded(tmp_path, lambda: batches(model), steps_by="batches")
    assert calls(trace) == [2, 2, 2]
    assert (trace.steps["data"] > 0).all()


def test_steps_can_be_ranges(tmp_path: Path) -> None:
    model = small()

    def program() -> None:
        for _ in range(3):
            with torch.profiler.record_function("work"):
                model(torch.ones(2, 4))
            model(torch.ones(2, 4))

    plain = torch.profiler.record_function.__enter__
    trace = recorded(tmp_path, program, steps_by="range:work")
    assert calls(trace) == [2, 2, 2]  # what is between ranges is in no step
    assert torch.profiler.record_function.__enter__ is plain


@pytest.mark.parametrize("by", ["optimizer", "forward", "batches", "range:work"])
def test_only_the_steps_that_were_asked_for_are_recorded(tmp_path: Path, by: str) -> None:
    def program() -> None:
        model = small()
        optimizer = torch.optim.SGD(model.parameters(), 0.1) if by == "optimizer" else None
        for batch in torch.utils.data.DataLoader(torch.ones(12, 4), 2):
            with torch.profiler.record_function("work"):
                model(batch).sum().backward()
                if optimizer is not None:
                    optimizer.step()

    given = by if by in ("batches", "range:work") else "auto"
    trace, outcome = record(tmp_path, program, steps_by=given, first=2, last=4)
    assert trace is not None
    assert (trace.steps["number"].tolist(), trace.steps["warmup"].tolist()) == ([2, 3], [0, 0])
    assert calls(trace) == [2, 2]
    assert ops(trace, "aten::mm") == ops(trace, "aten::mm")[:1] * 2
    assert outcome.steps_by == by
    assert trace.model is not None
    assert torchprof.memory(trace).by_category["parameters"] == 4 * (4 * 8 + 8 + 8 * 4 + 4)


def test_of_a_long_program_the_first_steps_are_recorded(tmp_path: Path) -> None:
    trace, outcome = record(tmp_path, lambda: loop(70))
    assert trace is not None
    assert (len(trace.steps), outcome.steps, outcome.why) == (50, 70, "")


def test_a_recording_ends_before_its_budget_is_lost(tmp_path: Path) -> None:
    trace, outcome = record(tmp_path, lambda: loop(700), last=None, budget=4 * 2**20)
    assert trace is not None
    assert trace.losses == {}
    assert 50 < len(trace.steps) < 700 == outcome.steps
    assert outcome.why == "its budget of 4 MiB was full"


def test_sums_are_of_all_steps(tmp_path: Path) -> None:
    trace = recorded(tmp_path, lambda: loop(70), last=None, aggregate=True)
    assert len(trace.steps) == 70
    linear = next(row for row in torchprof.by_module(trace).rows if row["type"] == "Linear")
    assert linear["calls"] == 1


def test_a_program_that_ends_too_early_is_told_so(tmp_path: Path) -> None:
    trace, outcome = record(tmp_path, lambda: loop(3), first=5, last=8)
    assert (trace, outcome.is_written, outcome.steps) == (None, False, 3)
    trace, outcome = record(tmp_path, lambda: None)
    assert (trace, outcome.why) == (None, "the program ran no op of PyTorch")


def test_a_recording_of_the_programs_own_comes_first(tmp_path: Path) -> None:
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    own: list[int] = []

    def program() -> None:
        torchprof.summary(model, input_size=(2, 4), verbose=0)  # before the first step: it goes on afterwards
        loop(3, model, optimizer)
        with torchprof.profile(model) as prof:
            for _ in range(2):
                loop(1, model, optimizer)
                prof.step()
        own.append(len(prof.trace.steps))
        loop(3, model, optimizer)

    trace, outcome = record(tmp_path, program)
    assert trace is not None
    assert own == [2]
    assert (trace.steps["number"].tolist(), outcome.steps) == ([1, 2], 8)
    assert outcome.why == "the program records itself with torchprof, which comes first"


def test_hooks_are_taken_away(tmp_path: Path) -> None:
    hooks = vars(sys.modules[torch.optim.Optimizer.__module__])["_global_optimizer_post_hooks"]
    before = dict(hooks)
    record(tmp_path, lambda: loop(2))
    assert dict(hooks) == before
