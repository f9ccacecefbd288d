"""Training loops as people write them: what a recording makes of each, and that it changes nothing about them."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from reading import op_names, path_of_call, rows_named
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

import torchprof
from torchprof import _C, Phase
from torchprof.analysis.model.flops import signature_flops
from torchprof.analysis.model.module_tree import OUTSIDE, paths_of_modules
from torchprof.trace.schema import CALL_RECOMPUTED, OP_NESTED, SCOPE_BACKWARD, phases
from torchprof.trace.trace import Trace

PARTS = ("forward", "recompute", "backward", "optimizer")


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.nn.functional.gelu(self.up(self.norm(x))))


class Net(nn.Module):
    """Blocks between two layers; those named in ``checkpointed`` are computed again in the backward pass."""

    def __init__(self, width: int = 16, blocks: int = 3, checkpointed: tuple[int, ...] = (), reentrant: bool = False) -> None:
        super().__init__()
        self.first = nn.Linear(8, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(blocks))
        self.last = nn.Linear(width, 4)
        self.checkpointed, self.reentrant = checkpointed, reentrant

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for index, block in enumerate(self.blocks):
            x = checkpoint(block, x, use_reentrant=self.reentrant) if index in self.checkpointed else block(x)
        return self.last(x)


def train(
    model: nn.Module,
    steps: int = 1,
    *,
    prof: torchprof.profile | None = None,
    optimizer: Any = torch.optim.AdamW,
    batch: int = 6,
) -> list[Tensor]:
    """A plain loop. Returns losses and what became of the parameters."""
    torch.manual_seed(1)
    update = optimizer(model.parameters(), lr=1e-2)
    seen = []
    for _ in range(steps):
        loss = model(torch.rand(batch, 8)).square().mean()
        loss.backward()
        update.step()
        seen += [loss.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]
        update.zero_grad()
        if prof is not None:
            prof.step()
    return [*seen, *(parameter.detach().clone() for parameter in model.parameters())]


def same(ours: list[Tensor], theirs: list[Tensor]) -> bool:
    return len(ours) == len(theirs) and all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def row_at(trace: Trace, path: str) -> dict[str, Any]:
    return next(row for row in torchprof.by_module(trace).rows if row["path"] == path and row["name"] != OUTSIDE)


def ops_by_phase(trace: Trace) -> dict[Phase, list[str]]:
    names, found = op_names(trace), phases(trace.ops)
    return {phase: [name for name, its in zip(names, found.tolist(), strict=True) if its == phase] for phase in Phase}


def path_of_op(trace: Trace, row: int) -> str | None:
    call = int(trace.ops["module_call"][row])
    return paths_of_modules(trace)[int(trace.module_calls["module"][call])] if call >= 0 else None


def assert_sums_hold(trace: Trace, *, threads: bool = False) -> None:
    """What is below a module, and itself, add up to it; and the roots to the step, or to more where threads worked at once."""
    rows = torchprof.by_module(trace).rows
    for at, row in enumerate(rows):
        below = [row]
        for other in rows[at + 1 :]:
            if other["depth"] <= row["depth"]:
                break
            below.append(other)
        assert sum(each["self"] for each in below) == pytest.approx(row["time"], rel=1e-9)
        for part in PARTS:
            assert sum(each[f"{part}_self"] for each in below) == pytest.approx(row[part], rel=1e-9)
    shares = sum(row["share"] for row in rows if row["depth"] == 0)
    assert shares > 1 if threads else shares == pytest.approx(1)


def test_a_step_has_a_forward_a_backward_and_an_update_and_each_op_is_in_one() -> None:
    model = Net()
    with torchprof.profile(model) as prof:
        train(model)
    found = ops_by_phase(prof.trace)
    assert {"aten::addmm", "aten::gelu", "aten::mean"} <= set(found[Phase.FORWARD])  # the loss is forward as well
    assert {"AddmmBackward0", "GeluBackward0", "MeanBackward0", "aten::mm"} <= set(found[Phase.BACKWARD])
    assert {"Optimizer.step#AdamW.step", "aten::addcdiv_"} <= set(found[Phase.OPTIMIZER])
    assert "aten::rand" in found[Phase.OTHER]
    assert not found[Phase.RECOMPUTATION]
    assert_sums_hold(prof.trace)


def test_every_part_of_a_module_is_in_its_row() -> None:
    model = Net()
    with torchprof.profile(model) as prof:
        train(model, optimizer=lambda parameters, lr: torch.optim.Adam(parameters, lr=lr, foreach=False))
    for path, module in model.named_modules():
        if any(True for _ in module.parameters(recurse=False)):
            row = row_at(prof.trace, path)
            assert min(row["forward_self"], row["backward_self"], row["optimizer_self"]) > 0, path
            assert row["recompute_self"] == 0


@pytest.mark.parametrize("memory", [True, False])
@pytest.mark.parametrize("aggregate", [True, False])
def test_training_is_the_same_to_the_bit_while_recorded(memory: bool, aggregate: bool) -> None:
    torch.manual_seed(0)
    bare = train(Net(checkpointed=(1,)), 3)
    torch.manual_seed(0)
    model = Net(checkpointed=(1,))
    with torchprof.profile(model, memory=memory, aggregate=aggregate) as prof:
        recorded = train(model, 3, prof=prof)
    assert same(bare, recorded)


# Gradient accumulation


def test_gradients_that_are_accumulated_go_to_the_module_that_owns_the_parameter() -> None:
    model = Net()
    with torchprof.profile(model) as prof:
        for _ in range(3):
            model(torch.rand(6, 8)).square().mean().backward()
    trace = prof.trace
    rows = rows_named(trace, "torch::autograd::AccumulateGrad")
    expected = Counter(
        {path: 3 * len(own) for path, module in model.named_modules() if (own := list(module.parameters(recurse=False)))}
    )
    assert Counter(path_of_op(trace, row) for row in rows) == expected
    assert row_at(trace, "first")["calls"] == 3


# Activation checkpointing


@pytest.mark.parametrize("reentrant", [True, False])
def test_what_is_checkpointed_is_recomputed_in_its_module_and_nothing_else_is(reentrant: bool) -> None:
    torch.manual_seed(0)
    bare = train(Net(checkpointed=(0, 2), reentrant=reentrant), 2)
    torch.manual_seed(0)
    model = Net(checkpointed=(0, 2), reentrant=reentrant)
    with torchprof.profile(model) as prof:
        recorded = train(model, 2, prof=prof)
    trace = prof.trace
    assert same(bare, recorded)

    again = np.flatnonzero(trace.module_calls["flags"] & CALL_RECOMPUTED)
    paths = Counter(path_of_call(trace, int(call)) for call in again)
    inside = [f"blocks.{index}{part}" for index in (0, 2) for part in ("", ".norm", ".up", ".down")]
    assert paths == Counter(dict.fromkeys(inside, 2))
    for row in torchprof.by_module(trace).rows:
        recomputed = row["recompute_self"] > 0
        assert recomputed == (row["path"] in inside), row["path"] or row["name"]
        assert row["name"] in (OUTSIDE, "other") or row["calls"] == (0 if row["path"] == "blocks" else 1), row["path"]
    assert_sums_hold(trace)


@pytest.mark.parametrize("reentrant", [True, False])
def test_recomputing_a_region_costs_the_flops_of_its_forward(reentrant: bool) -> None:
    def flops(checkpointed: tuple[int, ...]) -> dict[Phase, Counter[str | None]]:
        model = Net(checkpointed=checkpointed, reentrant=reentrant)
        with torchprof.profile(model) as prof:
            model(torch.rand(6, 8)).square().mean().backward()
        trace = prof.trace
        counts: dict[Phase, Counter[str | None]] = {phase: Counter() for phase in Phase}
        of_one = signature_flops(trace)[trace.ops["signature"]]
        for row, phase in enumerate(phases(trace.ops).tolist()):
            if of_one[row] and not trace.ops["flags"][row] & OP_NESTED:
                counts[Phase(phase)][path_of_op(trace, row)] += int(of_one[row])
        return counts

    plain, checkpointed = flops(()), flops((1,))
    layer = 2 * 6 * 16 * 32
    assert (plain[Phase.FORWARD]["blocks.1.up"], plain[Phase.FORWARD]["blocks.1.down"]) == (layer, layer)
    assert checkpointed[Phase.FORWARD] == plain[Phase.FORWARD]
    assert checkpointed[Phase.BACKWARD] == plain[Phase.BACKWARD]
    assert not plain[Phase.RECOMPUTATION]
    # Without reentrance it stops where the last tensor was saved that backward asks for: an input of the last layer.
    again = ("blocks.1.up", "blocks.1.down") if reentrant else ("blocks.1.up",)
    assert checkpointed[Phase.RECOMPUTATION] == dict.fromkeys(again, layer)


@pytest.mark.parametrize("reentrant", [True, False])
def test_backward_of_a_recomputed_forward_belongs_to_its_module(reentrant: bool) -> None:
    model = Net(checkpointed=(1,), reentrant=reentrant)
    with torchprof.profile(model) as prof:
        model(torch.rand(6, 8)).square().mean().backward()
    trace = prof.trace
    nodes = Counter(path_of_op(trace, row) for row in rows_named(trace, "AddmmBackward0"))
    layers = ["first", "last", *(f"blocks.{index}.{name}" for index in range(3) for name in ("up", "down"))]
    assert nodes == Counter(layers)


# Mixed precision


def test_autocast_casts_and_gradient_scaling_are_recorded_in_their_places() -> None:
    def run(prof: torchprof.profile | None = None) -> list[Tensor]:
        torch.manual_seed(0)
        model = Net()
        context = prof if prof is not None else torch.enable_grad()
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**4)
        update = torch.optim.SGD(model.parameters(), lr=0.1)
        with context:
            for _ in range(2):
                with torch.amp.autocast("cpu", dtype=torch.bfloat16):
                    loss = model(torch.rand(6, 8)).square().mean()
                scaler.scale(loss).backward()
                scaler.step(update)
                scaler.update()
                update.zero_grad()
        return [loss.detach(), *(p.detach() for p in model.parameters())]

    bare = run()
    prof = torchprof.profile()
    assert same(bare, run(prof))
    trace = prof.trace
    names, found = op_names(trace), phases(trace.ops)
    wide = [row for row in rows_named(trace, "aten::addmm") if found[row] == Phase.FORWARD]
    dtypes = {trace.tensors["dtype"][trace.operands[trace.ops["inputs"][row]]] for row in wide}
    assert dtypes == {15}  # bfloat16
    casts = [row for row in rows_named(trace, "aten::_to_copy") if found[row] == Phase.FORWARD]
    assert len(casts) >= len(list(Net().parameters()))
    assert all(trace.ops["module_call"][row] >= 0 for row in casts[:10])
    assert "ToCopyBackward0" in names
    # Gradients are unscaled before the optimizer's step is called: part of no phase.
    assert any("unscale" in name for name in names)


# Custom functions, hooks, transforms


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        (x,) = ctx.saved_tensors
        return grad * 2 * x


def test_a_custom_function_is_forward_in_its_module_and_so_is_its_backward() -> None:
    class Squares(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return Doubled.apply(x)  # type: ignore[no-any-return]

    model = nn.Sequential(nn.Linear(8, 5), Squares(), nn.Linear(5, 2))
    with torchprof.profile(model) as prof:
        model(torch.rand(3, 8)).sum().backward()
    trace = prof.trace
    found = phases(trace.ops)
    (node,) = rows_named(trace, "DoubledBackward")
    assert (path_of_op(trace, node), found[node]) == ("1", Phase.BACKWARD)
    inside = [row for row in range(len(trace.ops)) if trace.ops["parent"][row] == node]
    assert [op_names(trace)[row] for row in inside] == ["aten::mul", "aten::mul"]
    assert {path_of_op(trace, row) for row in inside} == {"1"}
    assert {found[row] for row in inside} == {Phase.BACKWARD}
    (forward,) = rows_named(trace, "Doubled")
    assert (path_of_op(trace, forward), found[forward]) == ("1", Phase.FORWARD)


def test_hooks_on_tensors_and_modules_and_after_accumulation_run_and_are_backward() -> None:
    seen: list[str] = []

    def clamp(parameter: Tensor) -> None:
        seen.append("accumulated")
        assert parameter.grad is not None
        parameter.grad.clamp_(-1, 1)

    def run() -> list[Tensor]:
        torch.manual_seed(0)
        model = Net()
        model.first.weight.register_hook(lambda grad: seen.append("tensor") or grad.sign())  # type: ignore[func-returns-value]
        model.last.register_full_backward_hook(lambda *_: seen.append("module"))
        model.last.bias.register_post_accumulate_grad_hook(clamp)
        return train(model)

    bare = run()
    with torchprof.profile() as prof:
        recorded = run()
    assert same(bare, recorded)
    assert Counter(seen) == {"tensor": 2, "module": 2, "accumulated": 2}
    found = phases(prof.trace.ops)
    for name in ("aten::sign", "aten::clamp_"):
        rows = rows_named(prof.trace, name)
        assert {int(found[row]) for row in rows} == {Phase.BACKWARD}, name


def test_functional_transforms_are_recorded_and_unchanged() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
    x = torch.rand(5, 3)

    def loss(values: dict[str, Tensor], one: Tensor) -> Tensor:
        return torch.func.functional_call(model, values, (one,)).sum()

    def run() -> list[Tensor]:
        per_sample = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, x)
        jacobian = torch.func.jacrev(lambda one: model(one))(x[0])
        hessian = torch.func.hessian(lambda one: model(one).sum())(x[0])
        return [*per_sample.values(), jacobian, hessian]

    bare = run()
    with torchprof.profile(model) as prof:
        recorded = run()
    assert same(bare, recorded)
    calls = Counter(path_of_call(prof.trace, call) for call in range(len(prof.trace.module_calls)))
    assert calls == {"": 3, "0": 3, "1": 3, "2": 3}
    assert_sums_hold(prof.trace)


def test_gradients_of_gradients_are_backward_and_attributed_to_their_module() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    x = torch.rand(5, 3, requires_grad=True)
    with torchprof.profile(model) as prof:
        (grad,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
        grad.square().sum().backward()
    trace = prof.trace
    assert not ops_by_phase(trace)[Phase.RECOMPUTATION]
    assert {path_of_op(trace, row) for row in rows_named(trace, "TanhBackward0")} == {"1"}
    assert {path_of_op(trace, row) for row in rows_named(trace, "TanhBackwardBackward0")} == {"1"}
    second = rows_named(trace, "MmBackward0")
    assert second
    assert {path_of_op(trace, row) for row in second} <= {"0", "2"}


# Several models, threads, processes


def test_two_models_in_one_loop_are_two_trees() -> None:
    torch.manual_seed(0)
    generator = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6))
    discriminator = nn.Sequential(nn.Linear(6, 8), nn.LeakyReLU(0.1), nn.Linear(8, 1))
    of_generator = torch.optim.Adam(generator.parameters(), foreach=False)
    of_discriminator = torch.optim.Adam(discriminator.parameters(), foreach=False)
    criterion = nn.BCEWithLogitsLoss()
    with torchprof.profile({"generator": generator, "discriminator": discriminator}) as prof:
        for _ in range(2):
            fake = generator(torch.rand(5, 4))
            loss = criterion(discriminator(torch.rand(5, 6)), torch.ones(5, 1))
            loss = loss + criterion(discriminator(fake.detach()), torch.zeros(5, 1))
            of_discriminator.zero_grad()
            loss.backward()
            of_discriminator.step()
            of_generator.zero_grad()
            criterion(discriminator(fake), torch.ones(5, 1)).backward()
            of_generator.step()
            prof.step()
    trace = prof.trace
    rows = torchprof.by_module(trace).rows
    paths = [row["path"] for row in rows if row["name"] not in (OUTSIDE, "other")]
    assert paths == [
        *("generator", "generator.0", "generator.1", "generator.2"),
        *("discriminator", "discriminator.0", "discriminator.1", "discriminator.2"),
        "<BCEWithLogitsLoss>",
    ]
    assert {row["path"]: row["calls"] for row in rows if row["depth"] == 0 and row["path"]} == {
        "generator": 1,
        "discriminator": 3,
        "<BCEWithLogitsLoss>": 3,
    }
    nodes = Counter(path_of_op(trace, row) for row in rows_named(trace, "AddmmBackward0"))
    assert nodes == {"generator.0": 2, "generator.2": 2, "discriminator.0": 6, "discriminator.2": 6}
    for path in ("generator.0", "generator.2", "discriminator.0", "discriminator.2"):
        assert min(row_at(trace, path)[part] for part in ("forward", "backward", "optimizer")) > 0
    assert_sums_hold(trace)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_from_a_data_loader_are_the_same_and_its_workers_record_nothing(workers: int) -> None:
    data = TensorDataset(torch.arange(48.0).view(12, 4))

    def run(prof: torchprof.profile | None) -> list[Tensor]:
        loader = DataLoader(data, batch_size=3, shuffle=True, num_workers=workers, generator=torch.Generator().manual_seed(0))
        model = nn.Linear(4, 2)
        seen = []
        for (batch,) in loader:
            model(batch).sum().backward()
            seen.append(batch)
            if prof is not None:
                prof.step()
        return seen

    bare = run(None)
    with torchprof.profile() as prof:
        recorded = run(prof)
    assert same(bare, recorded)
    assert len(prof.trace.steps) == 4
    assert len(prof.trace.module_calls) == 4
    stacked = rows_named(prof.trace, "aten::stack")
    assert len(stacked) == (4 if workers == 0 else 0)  # collated in the worker


def test_backward_on_several_threads_is_attributed_to_the_forward_of_each_thread() -> None:
    models = {str(index): nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1)) for index in range(4)}
    all_are_called = threading.Barrier(4)

    def wait(*_: Any) -> None:  # one after the other, they would not take more than the time of the recording
        all_are_called.wait(timeout=60)

    for model in models.values():
        model.register_forward_pre_hook(wait)

    def work(model: nn.Module) -> None:
        for _ in range(10):
            model(torch.ones(4, 8)).sum().backward()

    with torchprof.profile(models) as prof:
        threads = [threading.Thread(target=work, args=(model,)) for model in models.values()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    trace = prof.trace
    for name in ("AddmmBackward0", "torch::autograd::AccumulateGrad", "TanhBackward0"):
        found = Counter(path_of_op(trace, row) for row in rows_named(trace, name))
        layers = {"TanhBackward0": {"1": 10}, "AddmmBackward0": {"0": 10, "2": 10}}.get(name, {"0": 20, "2": 20})
        assert found == {f"{index}.{layer}": count for index in range(4) for layer, count in layers.items()}, name
    assert_sums_hold(trace, threads=True)


def test_backward_on_another_thread_than_forward_is_attributed() -> None:
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1))
    with torchprof.profile(model) as prof:
        loss = model(torch.ones(4, 8)).sum()
        thread = threading.Thread(target=loss.backward)
        thread.start()
        thread.join()
    trace = prof.trace
    assert Counter(path_of_op(trace, row) for row in rows_named(trace, "AddmmBackward0")) == {"0": 1, "2": 1}
    accumulated = Counter(path_of_op(trace, row) for row in rows_named(trace, "torch::autograd::AccumulateGrad"))
    assert accumulated == {"0": 2, "2": 2}


# Compiled, and not trained


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.filterwarnings("ignore")
def test_a_compiled_model_trains_the_same_and_is_placed(backend: str) -> None:
    def run(recorded: bool) -> tuple[list[Tensor], Trace | None]:
        torch._dynamo.reset()
        torch.manual_seed(0)
        model = Net()
        compiled = torch.compile(model, backend=backend)
        compiled(torch.rand(6, 8)).sum().backward()
        model.zero_grad()
        if not recorded:
            return train(compiled, 2), None
        with torchprof.profile(compiled) as prof:
            result = train(compiled, 2, prof=prof)
        return result, prof.trace

    bare, _ = run(False)
    result, trace = run(True)
    torch._dynamo.reset()
    assert same(bare, result)
    assert trace is not None
    root = torchprof.by_module(trace).rows[0]
    assert (root["path"], root["calls"]) == ("", 1)
    assert root["forward"] > 0
    assert root["backward"] > 0
    # From the compiled whole, nothing says which layer an op was written in; all of it belongs to the model.
    assert_sums_hold(trace)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_an_inference_loop_has_forward_only(mode: Callable[[], Any]) -> None:
    model = Net().eval()
    with torchprof.profile(model) as prof, mode():
        for _ in range(4):
            model(torch.rand(6, 8))
            prof.step()
    found = ops_by_phase(prof.trace)
    assert found[Phase.FORWARD]
    assert not any(found[phase] for phase in (Phase.BACKWARD, Phase.RECOMPUTATION, Phase.OPTIMIZER))
    assert all(row["backward"] == row["optimizer"] == row["recompute"] == 0 for row in torchprof.by_module(prof.trace).rows)
    assert torchprof.memory(prof.trace).by_category["activations"] == 0
    assert torchprof.memory(prof.trace).leaks == []
    assert_sums_hold(prof.trace)


# Steps and schedules


def numbers(trace: Trace) -> list[tuple[int, bool]]:
    return [(int(step["number"]), bool(step["warmup"])) for step in trace.steps]


def test_a_schedule_says_which_steps_are_recorded_and_which_counted() -> None:
    model = Net()
    ready: list[list[tuple[int, bool]]] = []
    installed: list[bool] = []
    schedule = torchprof.schedule(wait=2, warmup=1, active=2, repeat=2)
    clean = _C.installed(nn.Module)
    with torchprof.profile(model, schedule=schedule, on_trace_ready=lambda prof: ready.append(numbers(prof.trace))) as prof:
        for _ in range(12):
            assert _C.is_recording() or _C.installed(nn.Module) == clean
            installed.append(_C.is_recording())
            train(model)
            prof.step()
        assert _C.installed(nn.Module) == clean
    assert installed == [False, False, True, True, True] * 2 + [False, False]
    cycles = [[(2, True), (3, False), (4, False)], [(7, True), (8, False), (9, False)]]
    assert [numbers(trace) for trace in prof.traces] == cycles
    assert ready == cycles
    for trace in prof.traces:
        assert row_at(trace, "")["calls"] == 1  # per step
        (row,) = [row for row in torchprof.by_op(trace).rows if row["name"] == "aten::gelu"]
        assert row["calls"] == 3
        assert len(rows_named(trace, "aten::gelu")) == 9  # of three steps, one of them not counted
        assert [row["warmup"] for row in torchprof.by_step(trace).rows] == [True, False, False]


def test_the_loop_may_end_in_the_middle_of_a_cycle() -> None:
    ready: list[int] = []
    with torchprof.profile(
        schedule=torchprof.schedule(warmup=1, active=5), on_trace_ready=lambda prof: ready.append(len(prof.trace.steps))
    ) as prof:
        for _ in range(3):
            torch.ones(2)
            prof.step()
        torch.ones(3)
    assert numbers(prof.trace) == [(0, True), (1, False), (2, False)]
    assert ready == [3]
    assert len(rows_named(prof.trace, "aten::ones")) == 4  # what followed the last step is in the trace, and in no table
    (row,) = [row for row in torchprof.by_op(prof.trace).rows if row["name"] == "aten::ones"]
    assert row["calls"] == 1


def test_steps_add_up_to_the_tables() -> None:
    model = Net()
    with torchprof.profile(model) as prof:
        train(model, 4, prof=prof)
    trace = prof.trace
    steps = torchprof.by_step(trace).rows
    assert [step["step"] for step in steps] == [0, 1, 2, 3]
    assert sum(step["flops"] for step in steps) / 4 == sum(row["flops"] for row in torchprof.by_op(trace).rows)
    roots = [row for row in torchprof.by_module(trace).rows if row["depth"] == 0]
    for part in PARTS:
        assert sum(step[part] for step in steps) / 4 == pytest.approx(sum(row[part] for row in roots)), part
    assert len({step["ops"] for step in steps[1:]}) == 1  # the first makes the optimizer's state


def test_an_exception_in_the_loop_leaves_the_steps_before_it() -> None:
    model = Net()
    called = []

    def loop(prof: torchprof.profile) -> None:
        for step in range(5):
            if step == 2:
                model(torch.rand(6, 9))
            train(model)
            prof.step()

    prof = torchprof.profile(model, on_trace_ready=called.append)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"), prof:
        loop(prof)
    assert numbers(prof.trace) == [(0, False), (1, False)]
    assert row_at(prof.trace, "")["calls"] == 1
    assert called == [prof]
    assert not _C.is_recording()


def test_a_step_outside_the_recording_is_refused() -> None:
    prof = torchprof.profile()
    with pytest.raises(torchprof.RecordingError, match="outside the recording"):
        prof.step()
    with prof:
        prof.step()
    with pytest.raises(torchprof.RecordingError, match="outside the recording"):
        prof.step()


def test_a_loop_too_short_for_its_schedule_says_so() -> None:
    with torchprof.profile(schedule=torchprof.schedule(wait=3, active=1)) as prof:
        prof.step()
    with pytest.raises(torchprof.RecordingError, match="1 call of step"):
        _ = prof.trace


def test_steps_of_a_decorated_loop() -> None:
    prof = torchprof.profile()

    @prof
    def loop() -> None:
        for _ in range(3):
            torch.ones(2)
            prof.step()

    loop()
    assert numbers(prof.trace) == [(0, False), (1, False), (2, False)]


# What belongs to no module


def wide_transformer() -> tuple[nn.Module, Tensor]:
    return nn.TransformerEncoder(nn.TransformerEncoderLayer(256, 4, 1024, batch_first=True), 2), torch.rand(4, 64, 256)


def wide_convolutions() -> tuple[nn.Module, Tensor]:
    layers: list[nn.Module] = [nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(1024, 10)), torch.rand(8, 3, 32, 32)


@pytest.mark.parametrize("make", [wide_transformer, wide_convolutions])
def test_only_the_loss_is_differentiated_outside_modules(make: Callable[[], tuple[nn.Module, Tensor]]) -> None:
    model, x = make()
    with torchprof.profile(model) as prof:
        model(x).square().mean().backward()
    trace = prof.trace
    nodes = (trace.ops["scope"] == SCOPE_BACKWARD) & (phases(trace.ops) == Phase.BACKWARD)
    outside = nodes & (trace.ops["module_call"] < 0)
    assert {trace.strings[name] for name in trace.op_names[outside].tolist()} == {"MeanBackward0", "PowBackward0"}
    assert nodes.sum() > 10


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW, torch.optim.RMSprop, torch.optim.Adagrad])
def test_an_update_belongs_to_the_module_whose_parameters_it_changes(optimizer: Any) -> None:
    model = Net()
    with torchprof.profile(model) as prof:
        train(model, 2, prof=prof, optimizer=lambda parameters, lr: optimizer(parameters, lr=lr, foreach=False))
    trace = prof.trace
    owners = {p.untyped_storage().data_ptr(): path.rpartition(".")[0] for path, p in model.named_parameters()}
    changed: Counter[str | None] = Counter()
    for row in np.flatnonzero(phases(trace.ops) == Phase.OPTIMIZER).tolist():
        op = trace.ops[row]
        read = trace.tensors["storage"][trace.operands[op["inputs"] : op["inputs"] + op["n_inputs"]]].tolist()
        owner = {owners[storage] for storage in read if storage in owners}
        if owner:
            changed[path_of_op(trace, row)] += 1
            assert {path_of_op(trace, row)} == owner
    assert set(changed) == set(owners.values())
    assert_sums_hold(trace)


def test_an_update_of_all_parameters_at_once_belongs_to_no_module() -> None:
    model = Net()
    with torchprof.profile(model) as prof:
        train(model, 2, optimizer=lambda parameters, lr: torch.optim.SGD(parameters, lr=lr, foreach=True))
    (first, second) = rows_named(prof.trace, "aten::_foreach_add_")
    assert path_of_op(prof.trace, first) is None
    assert path_of_op(prof.trace, second) is None
