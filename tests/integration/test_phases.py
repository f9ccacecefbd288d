"""Every op and every moment of a step is in one phase, whatever way the program trains."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from phase_oracle import COLUMNS, phase_times, spans
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, Dataset

import torchprof
from torchprof.trace.schema import Phase, phases
from torchprof.trace.trace import Trace

PARTS = (*COLUMNS.values(), "other")
ALL = [phase.name.lower() for phase in Phase]


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))


def phases_of(trace: Trace, name: str) -> Counter[Phase]:
    """How many ops of this name, or whose name begins so, ran in each phase."""
    rows = [row for row, string in enumerate(trace.op_names) if trace.strings[string].startswith(name)]
    return Counter(Phase(int(phase)) for phase in phases(trace.ops)[rows])


def check_partition(trace: Trace) -> None:
    """The phases of each step are those that an oracle finds, and add up to it; the rows of the table by module do too."""
    assert len(trace.steps)
    end = int(trace.facts["duration_ns"])
    found = spans(trace.ops, trace.module_calls, end)
    for step, row in zip(trace.steps, torchprof.by_step(trace).rows, strict=True):
        assert sum(row[part] for part in PARTS) == row["time"] == step["end"] - step["start"]
        expected = phase_times(found, int(step["start"]), int(step["end"]))
        assert [row[part] for part in PARTS] == [expected[phase] for phase in (*COLUMNS, Phase.OTHER)]
        assert min(row[part] for part in PARTS) >= 0
    roots = [row for row in torchprof.by_module(trace).rows if row["depth"] == 0]
    active = trace.steps[trace.steps["warmup"] == 0]
    assert sum(row["time"] for row in roots) == pytest.approx(float((active["end"] - active["start"]).mean()), rel=1e-9)
    assert sum(row["share"] for row in roots) == pytest.approx(1)


def record(loop: Callable[[nn.Module, Callable[[], None]], None], model: nn.Module | None = None, **options: Any) -> Trace:
    model = network() if model is None else model
    with torchprof.profile(model, **options) as prof:
        loop(model, prof.step)
    return prof.trace


def closures(model: nn.Module, step: Callable[[], None], optimizer: Any = torch.optim.LBFGS) -> None:
    x = torch.randn(32, 8)
    update = optimizer(model.parameters(), lr=0.1, **({"max_iter": 4} if optimizer is torch.optim.LBFGS else {}))

    def closure() -> Tensor:
        update.zero_grad()
        loss = model(x).square().mean()
        loss.backward()
        return loss

    for _ in range(3):
        update.step(closure)
        step()


@pytest.mark.parametrize("optimizer", [torch.optim.LBFGS, torch.optim.SGD, torch.optim.AdamW], ids=lambda kind: kind.__name__)
def test_forward_and_backward_in_a_closure_are_forward_and_backward(optimizer: Any) -> None:
    trace = record(lambda model, step: closures(model, step, optimizer))
    check_partition(trace)
    calls = len(trace.module_calls) // 4  # how often the closure ran
    assert calls >= 3
    forward = torchprof.by_op(trace, phase="forward").rows
    assert {row["name"]: 3 * row["calls"] for row in forward}["aten::linear"] == 2 * calls
    assert phases_of(trace, "aten::linear") == {Phase.FORWARD: 2 * calls}
    assert set(phases_of(trace, "aten::mean")) == {Phase.FORWARD}, "the loss is differentiated"
    assert phases_of(trace, "autograd::engine::evaluate_function: AddmmBackward0") == {Phase.BACKWARD: 2 * calls}
    assert phases_of(trace, "Optimizer.step#") == {Phase.OPTIMIZER: 3}
    assert phases_of(trace, "Optimizer.zero_grad#") == {Phase.OPTIMIZER: calls}
    assert phases_of(trace, "aten::add_")[Phase.FORWARD] == 0
    root = torchprof.by_module(trace).rows[0]
    assert root["forward"] > 0 < root["backward"]
    assert root["saved"] > 0


def test_a_closure_saves_what_a_loop_without_one_saves() -> None:
    def plain(model: nn.Module, step: Callable[[], None]) -> None:
        x = torch.randn(32, 8)
        update = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(3):
            update.zero_grad()
            model(x).square().mean().backward()
            update.step()
            step()

    saved = [
        {row["name"]: row["saved"] for row in torchprof.by_module(trace).rows}
        for trace in (record(plain), record(lambda model, step: closures(model, step, torch.optim.SGD)))
    ]
    assert saved[0] == saved[1]
    assert saved[0]["Sequential"] > 0


def test_a_differentiable_optimizer_is_the_optimizer() -> None:
    def loop(model: nn.Module, step: Callable[[], None]) -> None:
        weight = torch.ones(4, requires_grad=True)
        copy_of_it = weight.clone()
        copy_of_it.grad = (weight * 2).detach().requires_grad_()
        update = torch.optim.SGD([copy_of_it], lr=0.1, differentiable=True)
        update.step()
        copy_of_it.sum().backward()
        step()

    trace = record(loop)
    check_partition(trace)
    assert phases_of(trace, "aten::add_")[Phase.OPTIMIZER] == 1


def test_the_optimizer_in_hooks_of_backward_is_the_optimizer_once() -> None:
    def loop(model: nn.Module, step: Callable[[], None]) -> None:
        updates = {p: torch.optim.SGD([p], lr=0.1) for p in model.parameters()}

        def update(parameter: Tensor) -> None:
            updates[parameter].step()
            updates[parameter].zero_grad()

        handles = [p.register_post_accumulate_grad_hook(update) for p in model.parameters()]
        for _ in range(3):
            model(torch.randn(32, 8)).square().mean().backward()
            step()
        for handle in handles:
            handle.remove()

    trace = record(loop)
    check_partition(trace)
    assert phases_of(trace, "Optimizer.step#") == {Phase.OPTIMIZER: 12}
    assert phases_of(trace, "aten::add_") == {Phase.OPTIMIZER: 12}
    assert phases_of(trace, "autograd::engine::evaluate_function")[Phase.OPTIMIZER] == 0
    first = next(row for row in torchprof.by_module(trace).rows if row["path"] == "0")
    assert first["optimizer"] > 0


def test_torch_func_has_forward_and_backward() -> None:
    def loop(model: nn.Module, step: Callable[[], None]) -> None:
        parameters = dict(model.named_parameters())
        x = torch.randn(32, 8)

        def loss(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
            return functional_call(model, parameters, (x,)).square().mean()

        for _ in range(2):
            grad(loss)(parameters, x)
            vmap(grad(loss), in_dims=(None, 0))(parameters, x)
            step()

    trace = record(loop)
    check_partition(trace)
    assert phases_of(trace, "aten::linear") == {Phase.FORWARD: len(phases(trace.ops)[names_are(trace, "aten::linear")])}
    assert set(phases_of(trace, "autograd::engine::evaluate_function")) == {Phase.BACKWARD}
    assert not phases_of(trace, "")[Phase.RECOMPUTATION]
    assert not phases_of(trace, "")[Phase.OPTIMIZER]


def names_are(trace: Trace, name: str) -> Any:
    return trace.op_names == trace.strings.index(name)


def averaging(model: nn.Module, step: Callable[[], None]) -> None:
    average = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9))
    update = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        model(torch.randn(32, 8)).square().mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        update.step()
        update.zero_grad()
        average.update_parameters(model)
        step()


def scaling(model: nn.Module, step: Callable[[], None]) -> None:
    scaler = torch.amp.GradScaler("cpu")
    update = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model(torch.randn(32, 8)).square().mean()
        scaler.scale(loss).backward()
        scaler.unscale_(update)
        scaler.step(update)
        scaler.update()
        update.zero_grad()
        step()


def by_hand(model: nn.Module, step: Callable[[], None]) -> None:
    for _ in range(3):
        model(torch.randn(32, 8)).square().mean().backward()
        parameters = list(model.parameters())
        with torch.no_grad():
            torch._foreach_add_(parameters, [p.grad for p in parameters], alpha=-0.1)
        for parameter in parameters:
            parameter.grad = None
        step()


def recomputing(model: nn.Module, step: Callable[[], None]) -> None:
    update = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        checkpoint(model, torch.randn(32, 8), use_reentrant=False).square().mean().backward()
        update.step()
        step()


def adversarial(model: nn.Module, step: Callable[[], None]) -> None:
    """A GAN, with a penalty on gradients."""
    critic = nn.Linear(4, 1)
    of_model, of_critic = torch.optim.Adam(model.parameters()), torch.optim.Adam(critic.parameters())
    for _ in range(3):
        fake = model(torch.randn(32, 8))
        (slope,) = torch.autograd.grad(critic(fake).sum(), fake, create_graph=True)
        of_critic.zero_grad()
        ((slope.norm() - 1).square() + critic(fake.detach()).mean()).backward()
        of_critic.step()
        of_model.zero_grad()
        (-critic(model(torch.randn(32, 8))).mean()).backward()
        of_model.step()
        step()


def ranges(model: nn.Module, step: Callable[[], None]) -> None:
    """User ranges around everything, some of which do not nest."""
    update = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        outer, inner = torch.profiler.record_function("a"), torch.profiler.record_function("b")
        outer.__enter__()
        loss = model(torch.randn(32, 8)).square().mean()
        inner.__enter__()
        loss.backward()
        outer.__exit__(None, None, None)
        update.step()
        inner.__exit__(None, None, None)
        step()


class Features(Dataset[Tensor]):
    """Data that takes its time: ops, and a module that transforms it."""

    def __init__(self) -> None:
        self.transform = nn.LayerNorm(8)

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> Tensor:
        with torch.no_grad():
            return self.transform(torch.full((8,), float(index)))


def loading(model: nn.Module, step: Callable[[], None]) -> None:
    update = torch.optim.SGD(model.parameters(), lr=0.1)
    for x in DataLoader(Features(), batch_size=4):
        model(x).square().mean().backward()
        update.step()
        step()


LOOPS = [closures, averaging, scaling, by_hand, recomputing, adversarial, ranges, loading]


@pytest.mark.parametrize("loop", LOOPS, ids=lambda loop: loop.__name__)
def test_the_phases_of_a_step_partition_its_time(loop: Any) -> None:
    trace = record(loop)
    check_partition(trace)
    counted = [{row["name"]: row["calls"] for row in torchprof.by_op(trace, phase=phase).rows} for phase in ALL]
    everything = {row["name"]: row["calls"] for row in torchprof.by_op(trace).rows}
    for name, calls in everything.items():
        assert sum(of_phase.get(name, 0) for of_phase in counted) == pytest.approx(calls), name


@pytest.mark.parametrize("loop", LOOPS, ids=lambda loop: loop.__name__)
def test_folded_steps_have_the_same_phases(loop: Any) -> None:
    whole, folded = record(loop), record(loop, aggregate=True)
    for row, of_whole in zip(torchprof.by_step(folded).rows, torchprof.by_step(whole).rows, strict=True):
        assert sum(row[part] for part in PARTS) == row["time"]
        assert [row[part] > 0 for part in PARTS] == [of_whole[part] > 0 for part in PARTS]
    names = [[row["name"] for row in torchprof.by_module(trace).rows] for trace in (whole, folded)]
    assert names[0] == names[1]
    roots = [row for row in torchprof.by_module(folded).rows if row["depth"] == 0]
    assert sum(row["share"] for row in roots) == pytest.approx(1)


@pytest.mark.parametrize(
    ("loop", "names", "phase"),
    [
        (averaging, ["aten::_foreach_norm", "aten::_foreach_mul_", "aten::_foreach_lerp_", "aten::stack"], Phase.OTHER),
        (scaling, ["aten::_amp_foreach_non_finite_check_and_unscale_", "aten::_amp_update_scale_"], Phase.OTHER),
        (by_hand, ["aten::_foreach_add_"], Phase.OTHER),
    ],
)
def test_what_is_done_to_weights_outside_of_optimizers_is_in_one_phase(loop: Any, names: list[str], phase: Phase) -> None:
    trace = record(loop)
    for name in names:
        found = phases_of(trace, name)
        assert set(found) == {phase}, name
        assert found[phase] >= 2


@settings(max_examples=10)
@given(st.lists(st.sampled_from("forward backward update closure zero load hook recompute".split()), min_size=1, max_size=12))
def test_the_phases_of_any_loop_partition_its_steps(actions: list[str]) -> None:
    model = network()
    update = torch.optim.Adam(model.parameters())
    x = torch.randn(4, 8)

    def closure() -> Tensor:
        loss = model(x).square().mean()
        loss.backward()
        return loss

    def run(action: str) -> None:
        if action == "forward":
            model(x)
        elif action == "backward":
            closure()
        elif action == "update":
            update.step()
        elif action == "closure":
            update.step(closure)
        elif action == "zero":
            update.zero_grad()
        elif action == "load":
            next(iter(DataLoader(Features(), batch_size=2)))
        elif action == "hook":
            handle = model[0].weight.register_post_accumulate_grad_hook(lambda _: update.step())
            closure()
            handle.remove()
        else:
            checkpoint(model, x, use_reentrant=False).sum().backward()

    with torchprof.profile(model) as prof:
        for at, action in enumerate(actions):
            run(action)
            if at % 3 == 2:
                prof.step()
        prof.step()
    check_partition(prof.trace)
