"""The memory account, compared with independent figures: all live tensors, what autograd packs, what optimizers hold."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from itertools import accumulate
from typing import Any
from weakref import WeakSet

import networks
import numpy as np
import pytest
import torch
from adding_up import peak_adds_up
from architectures import ALL, Case, loss_of
from counting import memory_reports
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

import torchprof
from torchprof.tables.memory import Memory
from torchprof.trace.trace import Trace

Storages = dict[int, int]
"""Bytes by address."""


@pytest.fixture(autouse=True)
def no_garbage() -> None:
    """What an earlier test left to the garbage collector, if it were collected here, would count as held from the beginning."""
    gc.collect()


def storages(tensors: Iterable[Any]) -> Storages:
    found = {}
    for tensor in tensors:
        if tensor is not None and tensor.layout is torch.strided and tensor.untyped_storage().nbytes():
            found[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
    return found


def live_tensors() -> Storages:
    """The storages of all CPU tensors that the garbage collector of Python tracks."""
    kinds = (Tensor, nn.Parameter)
    return storages(tensor for tensor in gc.get_objects() if type(tensor) in kinds and tensor.device.type == "cpu")


def held_by_model(model: nn.Module) -> Storages:
    return storages([*model.parameters(), *model.buffers(), *(p.grad for p in model.parameters())])


def optimizer_state(optimizer: torch.optim.Optimizer) -> Storages:
    return storages(value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor))


def account_at(trace: Trace, mark: str) -> dict[str, Storages]:
    """The blocks that were held at a mark according to the account, by category."""
    account = torchprof.memory(trace)
    time = trace.mark(mark)
    assert time is not None
    rows = account.allocations
    held: dict[str, Storages] = {category: {} for category in torchprof.CATEGORIES}
    for row in np.flatnonzero((rows["start"] <= time) & ((rows["end"] < 0) | (rows["end"] > time))).tolist():
        category = held[torchprof.CATEGORIES[account.category[row]]]
        assert int(rows["address"][row]) not in category
        category[int(rows["address"][row])] = int(rows["bytes"][row])
    return held


def everything(held: dict[str, Storages]) -> Storages:
    return {address: count for category in held.values() for address, count in category.items()}


class Packed:
    """One tensor that autograd saved. Only the graph refers to it."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


@contextmanager
def packed() -> Iterator[WeakSet[Packed]]:
    """The tensors that autograd saves in this context, for as long as it keeps them."""
    saved: WeakSet[Packed] = WeakSet()

    def pack(tensor: Tensor) -> Packed:
        wrapper = Packed(tensor)
        saved.add(wrapper)
        return wrapper

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda wrapper: wrapper.tensor):
        yield saved


class MLP(nn.Module):
    def __init__(self, width: int = 32, layers: int = 4, checkpointed: bool = False) -> None:
        super().__init__()
        self.first = nn.Linear(16, width)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)) for _ in range(layers)
        )
        self.last = nn.Linear(width, 8)
        self.checkpointed = checkpointed

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for layer in self.layers:
            x = checkpoint(layer, x, use_reentrant=False) if self.checkpointed else layer(x)
        return self.last(x)


def running_peak(account: Memory) -> int:
    """The most held at once, computed in a simple loop."""
    changes = []
    for row in account.allocations:
        if row["start"] >= 0:
            changes.append((int(row["start"]), 1, int(row["bytes"])))
        if row["end"] >= 0:
            changes.append((int(row["end"]), 0, -int(row["bytes"])))
    held = most = sum(int(row["bytes"]) for row in account.allocations if row["start"] < 0)
    for _, _, change in sorted(changes):
        held += change
        most = max(most, held)
    return most


# Everything that is held


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW, torch.optim.RMSprop, torch.optim.Adafactor])
@pytest.mark.parametrize("to_none", [True, False])
def test_what_is_held_at_any_moment_is_the_memory_of_all_live_tensors(optimizer: Any, to_none: bool) -> None:
    model = MLP()
    update = optimizer(model.parameters(), lr=1e-2)
    x = torch.rand(8, 16)
    walked: dict[str, Storages] = {}
    states: dict[str, tuple[Storages, Storages]] = {}

    def look(name: str) -> None:
        prof.mark(name)
        now = live_tensors()
        known = {**held_by_model(model), **optimizer_state(update), **storages([x])}
        walked[name] = {**{address: count for address, count in now.items() if address not in before}, **known}
        states[name] = optimizer_state(update), storages(p.grad for p in model.parameters())

    gc.collect()
    before = live_tensors()
    with torchprof.profile(model) as prof, packed():
        for step in range(2):
            y = model(x)
            loss = y.square().mean()
            look(f"forward {step}")
            loss.backward()
            del y, loss
            look(f"backward {step}")
            update.step()
            look(f"update {step}")
            update.zero_grad(set_to_none=to_none)
            look(f"end {step}")
            prof.step()
    for name, expected in walked.items():
        held = account_at(prof.trace, name)
        assert everything(held) == expected, name
        assert held["parameters"] == storages(model.parameters())
        assert (held["optimizer state"], held["gradients"]) == states[name], name
        assert held["inputs"] == storages([x])
        assert not held["other"]


def test_optimizer_state_and_gradients_from_before_the_recording_are_known() -> None:
    model = MLP()
    update = torch.optim.AdamW(model.parameters())
    x = torch.rand(8, 16)
    for to_none in (True, False):
        model(x).sum().backward()
        update.step()
        if to_none:
            update.zero_grad()
    old = held_by_model(model)
    with torchprof.profile(model) as prof:
        prof.mark("start")
        update.zero_grad()
        prof.mark("without")
        model(x).sum().backward()
        update.step()
        prof.mark("end")
    start, without, end = (account_at(prof.trace, name) for name in ("start", "without", "end"))
    assert not without["gradients"]
    assert {**start["parameters"], **start["gradients"]} == old
    assert end["gradients"] == storages(p.grad for p in model.parameters())
    assert start["optimizer state"] == end["optimizer state"] == optimizer_state(update)
    peak_adds_up(torchprof.memory(prof.trace))


@pytest.mark.parametrize("how", [{"foreach": False}, {"foreach": True}, {"fused": True}], ids=str)
def test_optimizer_state_from_before_the_recording_belongs_to_the_module_of_its_parameter(how: dict[str, bool]) -> None:
    model = MLP()
    update = torch.optim.AdamW(model.parameters(), **how)  # type: ignore[arg-type]
    for recording in (False, True):
        with torchprof.profile(model) if recording else nullcontext() as prof:
            model(torch.rand(8, 16)).sum().backward()
            update.step()
            update.zero_grad()
    found = torchprof.memory(prof.trace)
    held = np.flatnonzero(found.category == torchprof.CATEGORIES.index("optimizer state"))
    sums: Counter[str] = Counter()
    for row in held.tolist():
        if found.allocations["bytes"][row] > 8:  # counts of steps belong to none
            sums[found.module_path(row)] += int(found.allocations["bytes"][row])
    own = {path: sum(p.nbytes for p in module.parameters(recurse=False)) for path, module in model.named_modules()}
    assert sums == {path: 2 * count for path, count in own.items() if count}


def test_accumulated_gradients_are_counted_once() -> None:
    model = MLP()
    with torchprof.profile(model) as prof:
        for step in range(4):
            model(torch.rand(8, 16)).square().mean().backward()
            prof.mark(f"backward {step}")
            prof.step()
    gradients = storages(p.grad for p in model.parameters())
    for step in range(3):
        held = account_at(prof.trace, f"backward {step}")
        assert held["gradients"] == gradients
        assert not any(held[name] for name in ("activations", "temporaries", "other"))
    account = torchprof.memory(prof.trace)
    assert account.leaks == []
    by_module = {path: sum(storages(p.grad for p in m.parameters(recurse=False)).values()) for path, m in model.named_modules()}
    found = {path: held["gradients"] for path, held in account.by_module.items() if held.get("gradients")}
    assert found == {path: count for path, count in by_module.items() if count}


# Activations


@pytest.mark.parametrize("make", ALL, ids=lambda make: make.__name__)
@pytest.mark.filterwarnings("ignore")
def test_activations_of_real_architectures_are_what_autograd_packs(make: Callable[[], Case]) -> None:
    model, data = make()
    known = {**held_by_model(model), **storages(tensor for tensor in tree_leaves(data) if isinstance(tensor, Tensor))}
    with torchprof.profile(model) as prof, packed() as saved:
        loss = loss_of(model(**data))
        prof.mark("forward")
        kept = storages(each.tensor for each in saved)
        loss.backward()
    expected = {address: count for address, count in kept.items() if address not in known}
    activations = account_at(prof.trace, "forward")["activations"]
    # Autograd does not pass the numbers that it keeps (of x * 0.5) to its hooks.
    assert {address: count for address, count in activations.items() if count > 8 or address in expected} == expected


@pytest.mark.parametrize("make", ALL, ids=lambda make: make.__name__)
@pytest.mark.filterwarnings("ignore")
def test_real_architectures_have_less_than_a_percent_other_and_a_peak_that_adds_up(make: Callable[[], Case]) -> None:
    model, data = make()
    update = torch.optim.AdamW(model.parameters())
    with torchprof.profile(model) as prof:
        for _ in range(4):
            loss_of(model(**data)).backward()
            update.step()
            update.zero_grad()
            prof.step()
    account = torchprof.memory(prof.trace)
    peak_adds_up(account)
    assert account.peak.bytes == running_peak(account)
    assert account.by_category["other"] < 0.01 * account.peak.bytes
    assert account.by_category["optimizer state"] == sum(optimizer_state(update).values())
    assert account.by_category["parameters"] == sum(storages(model.parameters()).values())
    assert account.leaks == []


class AllocatedIn(TorchDispatchMode):
    """Records which module was running when each storage was allocated."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.running: list[str] = []
        self.made_in: dict[int, str] = {}
        for path, module in model.named_modules():
            module.register_forward_pre_hook(lambda *_, path=path: self.running.append(path))
            module.register_forward_hook(self.leave)

    def leave(self, *_: Any) -> None:
        self.running.pop()

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = op(*args, **(kwargs or {}))
        given = storages(leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor))
        for address in storages(leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)):
            if address not in given:
                self.made_in[address] = self.running[-1] if self.running else ""
        return result


@pytest.mark.parametrize("make", ALL, ids=lambda make: make.__name__)
@pytest.mark.filterwarnings("ignore")
def test_activations_belong_to_the_module_that_allocated_them(make: Callable[[], Case]) -> None:
    model, data = make()

    def seed() -> None:  # layers may be dropped
        torch.manual_seed(1)
        np.random.seed(1)

    for module in model.modules():
        if hasattr(module, "config"):
            module.config.use_cache = False  # a cache would be held by the program
    seed()
    with torchprof.profile(model) as prof:
        loss_of(model(**data)).backward()
    account = torchprof.memory(prof.trace)

    known = {**held_by_model(model), **storages(tensor for tensor in tree_leaves(data) if isinstance(tensor, Tensor))}
    expected: Counter[str] = Counter()
    seed()
    with packed() as saved, AllocatedIn(model) as mode:
        loss = loss_of(model(**data))
        for address, count in storages(each.tensor for each in saved).items():
            if address not in known:
                expected[mode.made_in[address]] += count
        del loss
    found: Counter[str] = Counter()
    numbers = account.allocations["bytes"] == 8  # not passed to hooks: see above
    for row in np.flatnonzero(account.saved & (~numbers | (account.allocations["op"] >= 0))).tolist():
        path = account.module_path(row)
        registered = path.partition(".<")[0]  # hooks do not see modules that are not registered
        found[registered] += int(account.allocations["bytes"][row])
    assert found == expected


class Remembering(nn.Module):
    """Has a parameter of its own, and keeps what its layer returned and a mask that it makes."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(16, 16)
        self.scale = nn.Parameter(torch.ones(16))
        self.kept: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        y = self.fc(x).tanh()
        self.kept += [y, torch.ones(16, 16).tril()]
        return y * self.scale


def frozen(model: nn.Module) -> None:
    model.requires_grad_(False)


@pytest.mark.parametrize("how", [torch.no_grad, torch.inference_mode, frozen])
def test_without_a_graph_nothing_is_kept_for_backward(how: Any) -> None:
    model = Remembering()
    x = torch.rand(8, 16)
    if how is frozen:
        frozen(model)
    with torchprof.profile(model) as prof, nullcontext() if how is frozen else how():
        model(x).square().mean()
    account = torchprof.memory(prof.trace)
    assert account.by_category["activations"] == sum(account.saved_by_module.values()) == 0
    assert "Kept for backward: nothing that was recorded" in str(account)
    assert sum(storages(model.kept).values()) <= account.by_category["outputs"]
    assert all(row["saved"] == 0 for row in torchprof.by_module(prof.trace).rows)


def test_an_evaluation_between_training_steps_keeps_nothing_for_backward() -> None:
    model = Remembering()
    with torchprof.profile(model) as prof:
        for _ in range(2):
            model(torch.rand(8, 16)).square().mean().backward()
            model.kept.clear()
            with torch.no_grad():
                prof.mark("evaluation")
                model(torch.rand(128, 16))
                prof.mark("evaluated")
            model.kept.clear()
    assert not account_at(prof.trace, "evaluated")["activations"]
    assert set(account_at(prof.trace, "evaluated")["outputs"].values()) == {128 * 16 * 4, 16 * 16 * 4}


def test_what_the_root_has_itself_stands_under_its_class() -> None:
    model = Remembering()
    with torchprof.profile(model) as prof:
        for _ in range(4):
            model(torch.rand(8, 16)).square().mean().backward()
            prof.step()
    account = torchprof.memory(prof.trace)
    assert account.by_module[""]["parameters"] == account.by_module[""]["gradients"] == 16 * 4
    assert account.by_module[""]["activations"] >= 8 * 16 * 4
    assert "parameters" not in account.by_module.get("(no module)", {})
    rows = {row["name"]: row for row in account.modules.rows}
    assert rows["Remembering"]["at_peak"] == sum(account.by_module[""].values())
    assert {(leak.op, leak.module) for leak in account.leaks} == {("aten::tanh", ""), ("aten::tril", "")}
    assert {row["module"] for row in account.leak_table.rows} == {"Remembering"}
    saved = {row["name"]: row["saved"] for row in torchprof.by_module(prof.trace).rows}
    own = account.saved_by_module
    assert saved["Remembering"] == own[""] + own.get("fc", 0)
    assert saved["outside modules"] == own.get("(no module)", 0)


# The peak


def test_the_peak_is_that_of_torch_profiler() -> None:
    model = MLP()
    x = torch.rand(8, 16)

    def step() -> None:
        model(x).square().mean().backward()
        model.zero_grad()

    step()
    with torchprof.profile(model) as prof:
        step()
    reports = memory_reports(step)
    account = torchprof.memory(prof.trace)
    assert len(reports) > 50
    assert account.peak.bytes == max(accumulate(reports)) + sum(storages([*model.parameters(), x]).values())
    peak_adds_up(account)


def test_the_peak_of_a_step_is_that_of_the_account() -> None:
    model = MLP()
    x = torch.rand(8, 16)
    with torchprof.profile(model) as prof:
        for _ in range(3):
            model(x).square().mean().backward()
            model.zero_grad()
            prof.step()
    account = torchprof.memory(prof.trace)
    before = sum(storages([*model.parameters(), x]).values())
    rows = torchprof.by_step(prof.trace).rows
    assert account.peak.bytes == max(row["peak"] for row in rows)
    assert [row["peak"] - before for row in rows] == prof.trace.steps["peak"].tolist()
    assert account.peak.step is not None
    assert account.peak.phase in ("forward", "backward")
    assert [row["held"] for row in rows] == [before] * 3
    times, held = account.timeline(10**6)
    assert int(held.sum(axis=1).max()) == account.peak.bytes
    assert (np.diff(times) >= 0).all()


def test_checkpointing_saves_activations_and_costs_recomputation() -> None:
    def run(checkpointed: bool) -> Trace:
        model = MLP(checkpointed=checkpointed)
        with torchprof.profile(model) as prof:
            model(torch.rand(64, 16)).square().mean().backward()
        return prof.trace

    plain, checkpointed = run(False), run(True)
    saved, kept = torchprof.memory(plain).by_category, torchprof.memory(checkpointed).by_category
    assert torchprof.memory(checkpointed).peak.bytes < torchprof.memory(plain).peak.bytes
    assert kept["activations"] < saved["activations"] / 2
    assert kept["parameters"] == saved["parameters"]
    assert torchprof.by_module(plain).rows[0]["recompute"] == 0
    assert torchprof.by_module(checkpointed).rows[0]["recompute"] > 0
    # With checkpointing, only the inputs of the regions are kept after forward, and nothing of their insides.
    whole, regions = 64 * 32 * 4, 4
    assert sum(torchprof.memory(plain).saved_by_module.values()) - whole * regions >= 2 * 4 * whole * regions
    peak_adds_up(torchprof.memory(checkpointed))


# Leaks


class Hoarder(nn.Module):
    """Keeps a result of every third call, or keeps nothing."""

    def __init__(self, keeps: bool) -> None:
        super().__init__()
        self.fc = nn.Linear(16, 16)
        self.keeps = keeps
        self.hoard: list[Tensor] = []
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        y = self.fc(x).tanh()
        if self.keeps and self.calls % 3 == 0:
            self.hoard.append(y.detach().exp())
        self.calls += 1
        return y


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam])
def test_a_planted_leak_is_found_with_its_op_and_module_and_is_the_only_one(optimizer: Any) -> None:
    def run(keeps: bool) -> Memory:
        model = nn.Sequential(nn.Linear(16, 16), Hoarder(keeps), nn.Linear(16, 1))
        update = optimizer(model.parameters())
        losses = []
        with torchprof.profile(model) as prof:
            for _ in range(7):
                loss = model(torch.rand(8, 16)).sum()
                loss.backward()
                update.step()
                update.zero_grad()
                losses.append(loss.item())
                prof.step()
        return torchprof.memory(prof.trace)

    assert run(False).leaks == []
    (leak,) = run(True).leaks
    assert (leak.op, leak.module, leak.count, leak.bytes, leak.steps) == ("aten::exp", "1", 3, 3 * 8 * 16 * 4, 3)
    assert leak.growth == 2 * 8 * 16 * 4 / 6


def test_keeping_the_loss_with_its_graph_is_a_leak_of_the_activations() -> None:
    model = MLP(layers=1)
    kept = []
    with torchprof.profile(model) as prof:
        for _ in range(4):
            loss = model(torch.rand(8, 16)).square().mean()
            kept.append(loss)  # a common mistake: running_loss += loss
            prof.step()
    leaks = torchprof.memory(prof.trace).leaks
    modules = {leak.module for leak in leaks}
    assert {"first", "layers.0.0", "layers.0.1"} <= modules
    assert all(leak.steps == 4 for leak in leaks)


def test_a_recording_that_lost_rows_is_incomplete_and_tells_no_leaks() -> None:
    model = nn.Sequential(*(nn.Linear(16, 16) for _ in range(20)))
    with torchprof.profile(model, budget=2**20) as prof:
        for _ in range(60):
            model(torch.rand(8, 16)).square().mean().backward()
            model.zero_grad()
            prof.step()
    assert prof.trace.losses["allocations"] > 1000
    account = torchprof.memory(prof.trace)
    assert account.leaks == []
    text = str(account)
    assert "INCOMPLETE" in text.splitlines()[0]
    assert "Leaks: unknown" in text
    assert f"INCOMPLETE: {prof.trace.losses['allocations']:,} allocations did not fit the budget" in text


def test_memory_that_is_kept_until_the_next_step_is_no_leak() -> None:
    model = MLP(layers=1)
    state = torch.zeros(8, 8)
    with torchprof.profile(model) as prof:
        for _ in range(4):
            state = model(torch.rand(8, 16)).detach() + state
            prof.step()
    assert torchprof.memory(prof.trace).leaks == []


# Other ways to train


@pytest.mark.parametrize("name", networks.FOR_TORCHSUMMARY)
def test_plain_networks_have_less_than_a_percent_other_and_no_leaks(name: str) -> None:
    make, size = networks.FOR_TORCHSUMMARY[name]
    model = make()
    inputs = [torch.rand(2, *each) for each in (size if isinstance(size, list) else [size])]
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad] or [torch.ones(1, requires_grad=True)]
    update = torch.optim.SGD(trained, lr=0.1, momentum=0.9)
    with torchprof.profile(model) as prof:
        for step in range(4):
            output = model(*inputs)
            (output.square().mean() * trained[0].sum()).backward()
            update.step()
            prof.mark(f"step {step}")
            update.zero_grad()
            del output
            prof.step()
    account = torchprof.memory(prof.trace)
    peak_adds_up(account)
    assert account.by_category["other"] <= 0.01 * account.peak.bytes
    assert account.leaks == []
    held = account_at(prof.trace, "step 2")
    assert held["optimizer state"] == optimizer_state(update)
    assert held["buffers"] == storages(model.buffers())


def test_a_scaler_a_custom_function_and_two_models_leave_less_than_a_percent_other() -> None:
    class Squared(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
            (x,) = ctx.saved_tensors
            return 2 * x * grad

    models = {"one": MLP(), "two": MLP(layers=1)}
    updates = [torch.optim.AdamW(model.parameters()) for model in models.values()]
    scaler = torch.amp.GradScaler("cpu")
    with torchprof.profile(models) as prof:
        for _ in range(4):
            for model, update in zip(models.values(), updates, strict=True):
                with torch.amp.autocast("cpu", dtype=torch.bfloat16):
                    loss = Squared.apply(model(torch.rand(8, 16))).mean()  # type: ignore[no-untyped-call]
                scaler.scale(loss).backward()
                scaler.step(update)
            scaler.update()
            for update in updates:
                update.zero_grad()
            prof.step()
    account = torchprof.memory(prof.trace)
    peak_adds_up(account)
    assert account.by_category["other"] < 0.01 * account.peak.bytes
    assert account.by_category["optimizer state"] == sum(sum(optimizer_state(update).values()) for update in updates)
    assert account.leaks == []  # what the scaler allocates in the first step stays, and does not grow
