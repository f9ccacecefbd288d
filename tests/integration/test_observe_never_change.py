"""Looking at a program changes nothing about it."""

from __future__ import annotations

import random
import traceback
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import networks
import numpy as np
import pytest
import torch
import torch.fx
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

import torchprof


def states(model: nn.Module) -> dict[str, Any]:
    """Everything about a model and the process that running the model may change."""
    return {
        "torch rng": torch.get_rng_state().tolist(),
        "python rng": random.getstate(),
        "numpy rng": np.random.get_state()[1].tolist(),  # type: ignore[index]
        "modes": [module.training for module in model.modules()],
        "values": {name: tensor.tolist() for name, tensor in model.state_dict().items()},
        "versions": [tensor._version for tensor in (*model.parameters(), *model.buffers())],
        "identities": [id(tensor) for tensor in (*model.parameters(), *model.buffers())],
        "gradients": [None if p.grad is None else p.grad.tolist() for p in model.parameters()],
        "attributes": [sorted(vars(module)) for module in model.modules()],
        "hooks": [
            (len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks), len(m._backward_pre_hooks))
            for m in model.modules()
        ],
        "grad mode": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "default dtype": torch.get_default_dtype(),
        "threads": torch.get_num_threads(),
    }


class Restless(nn.Module):
    """Draws random numbers of every kind, updates statistics, switches modes and keeps things on itself."""

    def __init__(self, raises: bool = False) -> None:
        super().__init__()
        self.raises = raises
        self.fc = nn.Linear(4, 4)
        self.norm = nn.BatchNorm1d(4)
        self.drop = nn.Dropout(0.5)
        self.register_buffer("steps", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.last_input = x
        self.steps += 1
        x = self.drop(self.norm(self.fc(x))) + random.random() + float(np.random.rand())
        self.drop.eval()
        self.fc.bias.register_hook(lambda grad: grad)
        if self.raises:
            raise KeyError("on purpose")
        return x


@pytest.mark.parametrize("backward", [False, True])
def test_a_summary_leaves_everything_as_it_was(backward: bool) -> None:
    model = Restless()
    model(torch.rand(3, 4)).sum().backward()
    before = states(model)
    torchprof.summary(model, input_size=(3, 4), backward=backward, warmup=1, verbose=0)
    assert states(model) == before


def test_a_summary_of_a_model_that_raises_leaves_everything_as_it_was() -> None:
    model = Restless(raises=True)
    before = states(model)
    with pytest.raises(KeyError):
        torchprof.summary(model, input_size=(3, 4), verbose=0)
    assert states(model) == before


def test_the_models_own_exception_comes_out_with_its_traceback_and_a_note() -> None:
    model = nn.Sequential(nn.Linear(4, 4), Restless(raises=True))
    with pytest.raises(KeyError, match="on purpose") as caught:
        torchprof.summary(model, input_size=(3, 4), verbose=0)
    assert traceback.extract_tb(caught.tb)[-1].line == 'raise KeyError("on purpose")'
    assert caught.value.__cause__ is None
    assert "module '1' (Restless), called with float32[3, 4]" in caught.value.__notes__[0]


def test_a_graph_of_the_users_is_still_good_after_a_summary() -> None:
    model = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 2))
    loss = model.eval()(torch.ones(3, 4)).sum()  # saved the running statistics
    model.train()
    torchprof.summary(model, input_size=(3, 4), verbose=0)
    loss.backward()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_the_grad_mode_of_the_caller_is_used_and_kept(mode: Callable[[], Any]) -> None:
    model = nn.Linear(4, 4)
    with mode():
        before = states(model)
        assert (torchprof.summary(model, input_size=(3, 4), verbose=0).totals.saved > 0) == (mode is torch.enable_grad)
        assert states(model) == before


def test_the_users_inputs_are_not_touched() -> None:
    x = torch.ones(3, 4, requires_grad=True)
    torchprof.summary(nn.Linear(4, 4), input_data=x, backward=True, verbose=0)
    assert x.grad is None
    assert x._version == 0
    assert x.grad_fn is None


def results(model: nn.Module, x: Tensor) -> list[Tensor]:
    torch.manual_seed(1)
    model.zero_grad()
    y = model(x)
    y.sum().backward()
    return [y.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


@pytest.mark.parametrize("name", [name for name, (_, size) in networks.FOR_TORCHSUMMARY.items() if isinstance(size, tuple)])
def test_results_are_the_same_to_the_bit_while_recording(name: str) -> None:
    make, size = networks.FOR_TORCHSUMMARY[name]
    model, x = make().eval(), torch.rand(2, *size)
    bare = results(model, x)
    with torchprof.profile(model):
        recorded = results(model, x)
    assert all(torch.equal(a, b) for a, b in zip(bare, recorded, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(bare, results(model, x), strict=True))


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("compiled", ["before", "during", "after"])
def test_compiled_models_have_the_same_graphs_whenever_they_are_compiled(backend: str, compiled: str) -> None:
    def graphs(record_at: str | None) -> tuple[int, int, int]:
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        torch.manual_seed(0)
        counter = CompileCounterWithBackend(backend)
        model = torch.compile(networks.Nested().eval(), backend=counter)
        x = torch.ones(2, 3, 16, 16)
        if record_at == "after":
            with torchprof.profile(model):
                nn.Linear(2, 2)(torch.ones(2))
        if record_at in (None, "before"):
            model(x)
        if record_at is not None:
            with torchprof.profile(model):
                model(x) if record_at != "after" else None
        model(x)
        model(x)
        breaks = sum(torch._dynamo.utils.counters["graph_break"].values())
        return counter.frame_count, counter.op_count, breaks

    assert graphs(compiled) == graphs(None)
    torch._dynamo.reset()


class Calls(nn.Module):
    """Calls a layer in one of the ways that there are."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way, self.block = way, nn.Linear(4, 4)
        self.stored = self.block.__call__

    def forward(self, x: Tensor) -> Tensor:
        if self.way == "attribute":
            return self.block.__call__(x)
        if self.way == "stored":
            return self.stored(x)
        if self.way == "unbound":
            return nn.Module.__call__(self.block, x)
        torch._dynamo.graph_break()
        return self.block.__call__(self.block(x))


@pytest.mark.parametrize("way", ["attribute", "stored", "unbound", "broken"])
@pytest.mark.parametrize("recorded", ["first", "second", "fx trace first"])
def test_a_recording_makes_no_compiled_model_compile_again_however_it_calls_its_layers(way: str, recorded: str) -> None:
    def counts(recorded: str) -> tuple[int, int, dict[str, Any]]:
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        counter = CompileCounterWithBackend("eager")
        model = torch.compile(Calls(way).eval(), backend=counter)
        x = torch.ones(2, 4)
        with torchprof.profile(model) if "first" in recorded else nullcontext():
            if recorded.startswith("fx"):
                torch.fx.symbolic_trace(nn.Sequential(nn.ReLU()))
            model(x)
        with torchprof.profile(model) if recorded == "second" else nullcontext():
            model(x)
        model(x)
        found = {name: dict(values) for name, values in torch._dynamo.utils.counters.items() if name != "stats"}
        return counter.frame_count, counter.op_count, found

    assert counts(recorded) == counts("")
    torch._dynamo.reset()


def test_a_compiled_model_gives_the_same_results_while_recorded() -> None:
    model, x = networks.Nested().eval(), torch.rand(2, 3, 16, 16)
    compiled = torch.compile(model, backend="aot_eager")
    with torchprof.profile(compiled) as prof:
        y = compiled(x)
    assert torch.equal(y, compiled(x))
    assert len(prof.trace.module_calls) > 0
    torch._dynamo.reset()


def test_global_module_hooks_of_the_program_still_run() -> None:
    seen = []
    hook = nn.modules.module.register_module_forward_hook(lambda module, args, output: seen.append(type(module).__name__))
    try:
        torchprof.summary(nn.Sequential(nn.Tanh()), input_size=(1,), verbose=0)
    finally:
        hook.remove()
    assert seen == ["Tanh", "Sequential"]


def test_hooks_that_change_outputs_are_obeyed_and_seen() -> None:
    model = nn.Sequential(nn.Tanh())
    hook = model[0].register_forward_hook(lambda module, args, output: output[:1])
    assert torchprof.summary(model, input_size=(3, 2), verbose=0).rows[1].output_shapes == ((1, 2),)
    hook.remove()


class Masked(nn.Module):
    def __init__(self, raises: bool = False) -> None:
        super().__init__()
        self.raises = raises
        self.norm = nn.BatchNorm1d(4)
        self.register_buffer("mask", torch.tril(torch.ones(4, 4)).expand(2, 4, 4))
        self.register_buffer("part", torch.zeros(10)[2:6])

    def forward(self, x: Tensor) -> Tensor:
        self.part += 1
        if self.raises:
            raise KeyError("on purpose")
        y: Tensor = self.norm(x) * self.mask[0, 0]
        return y


@pytest.mark.parametrize("raises", [False, True])
def test_buffers_that_are_views_are_restored_and_hide_nothing(raises: bool) -> None:
    model = Masked(raises)
    before = states(model)
    if raises:
        with pytest.raises(KeyError, match="on purpose"):
            torchprof.summary(model, (3, 4), verbose=0)
    else:
        torchprof.summary(model, (3, 4), verbose=0)
    assert states(model) == before
