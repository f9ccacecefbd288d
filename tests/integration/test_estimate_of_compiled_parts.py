"""Estimates of programs that compile parts of themselves: each in a process of its own, which would die."""

from __future__ import annotations

import functools
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo import eval_frame

import torchprof
from torchprof import EstimateError

ROOT = Path(__file__).parents[2]

PROGRAM = """
import torch
import torchprof
from torch import nn

def function(x):
    return x.sin() + 1

class Calls(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.linear = nn.Linear(8, 8)
        self.function = function

    def forward(self, x):
        return self.function(self.linear(x))

class Decorated(Calls):
    @torch.compile
    def forward(self, x):
        return super().forward(x)

class DecoratedInside(Calls):
    @torch.compile(fullgraph=True)
    def inner(self, x):
        return self.function(self.linear(x))

    def forward(self, x):
        return self.inner(x)

def in_place(model):
    model.compile()
    return model

def by_forward(model):
    model.forward = torch.compile(model.forward)
    return model

def with_compiled_step(parameters):
    optimizer = torch.optim.AdamW(parameters)
    optimizer.step = torch.compile(optimizer.step)
    return optimizer

def found(model, optimizer=torch.optim.AdamW, **options):
    made = torchprof.estimate(model, (4, 8), optimizer=optimizer, device="cpu", **options)
    assert [p.grad for p in model.parameters()] == [None] * len(list(model.parameters()))
    assert type(torch._dynamo.eval_frame._stance).__name__ == "DynamoStance"
    return made.max_allocated

plain = found(nn.Sequential(nn.Linear(8, 8), Calls(function)))
"""

COMPILED_PARTS = {
    "a function": "nn.Sequential(nn.Linear(8, 8), Calls(torch.compile(function)))",
    "a function that is compiled in forward": "nn.Sequential(nn.Linear(8, 8), Calls(lambda x: torch.compile(function)(x)))",
    "a submodule": "nn.Sequential(nn.Linear(8, 8), torch.compile(Calls(function)))",
    "the model": "torch.compile(nn.Sequential(nn.Linear(8, 8), Calls(function)))",
    "nested ones": "torch.compile(nn.Sequential(nn.Linear(8, 8), torch.compile(Calls(torch.compile(function)))))",
    "a submodule in place": "nn.Sequential(nn.Linear(8, 8), in_place(Calls(function)))",
    "the model in place": "in_place(nn.Sequential(nn.Linear(8, 8), Calls(function)))",
    "a forward": "nn.Sequential(nn.Linear(8, 8), by_forward(Calls(function)))",
    "the forward of the model": "by_forward(nn.Sequential(nn.Linear(8, 8), Calls(function)))",
    "a decorated forward": "nn.Sequential(nn.Linear(8, 8), Decorated(function))",
    "a decorated method": "nn.Sequential(nn.Linear(8, 8), DecoratedInside(function))",
}


def ran(script: str) -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM + script], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]


def test_what_is_compiled_is_estimated_as_it_was_written() -> None:
    checks = [f"assert found({model}) == plain, {what!r}\n" for what, model in COMPILED_PARTS.items()]
    ran("".join(checks) + "assert found(nn.Sequential(nn.Linear(8, 8), Calls(function)), with_compiled_step) == plain\n")


def test_what_has_been_compiled_before_is_not_run_either() -> None:
    ran(
        """
model = nn.Sequential(nn.Linear(8, 8), Calls(torch.compile(function, backend="aot_eager")))
expected = model(torch.ones(4, 8))
model.zero_grad()
assert found(model) == plain
assert torch.equal(model(torch.ones(4, 8)), expected)
"""
    )


def test_with_compile_every_part_is_compiled_without_kernels() -> None:
    ran(
        """
compiled = found(nn.Sequential(nn.Linear(8, 8), Calls(function)), compile=True)
assert found(nn.Sequential(nn.Linear(8, 8), Calls(torch.compile(function))), compile=True) == compiled
assert found(nn.Sequential(nn.Linear(8, 8), Calls(function)), with_compiled_step, compile=True) > 0
"""
    )


def test_scripted_functions_are_run_and_scripted_modules_are_named() -> None:
    @torch.jit.script
    def scripted(x: Tensor) -> Tensor:
        return x.sin() + 1

    def plain(x: Tensor) -> Tensor:
        return x.sin() + 1

    found = {torchprof.estimate(calls(function), (4, 8), device="cpu").max_allocated for function in (plain, scripted)}
    assert len(found) == 1
    model = nn.Sequential(nn.Linear(8, 8), torch.jit.script(nn.Linear(8, 8)))
    with pytest.raises(EstimateError, match=r"1 is TorchScript.*Pass the module that it was made from"):
        torchprof.estimate(model, (4, 8), device="cpu")


class Calls(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.linear(x))


def calls(function: Callable[[Tensor], Tensor]) -> nn.Module:
    return Calls(function)


def test_compiled_modules_are_said_to_be_run_as_they_were_written() -> None:
    compiled: Any = torch.compile(nn.Linear(8, 8), backend="eager")
    model = nn.Sequential(nn.Linear(8, 8), compiled)
    notes = torchprof.estimate(model, (4, 8), device="cpu").notes
    assert notes == ("what torch.compile saves and fuses in 1: compile=True predicts it for the whole model",)


# Stances.


def stance() -> Any:
    return eval_frame._stance


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_the_stance_is_put_back_whatever_happens(error: type[BaseException]) -> None:
    before = stance()

    def step(*_: object) -> None:
        assert stance().stance == "force_eager"
        torch.compiler.set_stance("eager_on_recompile")
        raise error

    with pytest.raises(error):
        torchprof.estimate(nn.Linear(8, 8), (4, 8), step=step, device="cpu")
    assert stance() is before


def test_a_stance_of_the_users_own_is_put_back() -> None:
    with torch.compiler.set_stance("eager_on_recompile"):
        torchprof.estimate(nn.Linear(8, 8), (4, 8), device="cpu")
        assert stance().stance == "eager_on_recompile"


def test_other_threads_compile_as_ever_meanwhile() -> None:
    seen: list[str] = []

    def step(*_: object) -> None:
        thread = threading.Thread(target=lambda: seen.append(stance().stance))
        thread.start()
        thread.join()

    torchprof.estimate(nn.Linear(8, 8), (4, 8), step=step, steps=1, device="cpu")
    assert seen == ["default"]


def test_a_stance_that_another_thread_puts_back_later_is_that_of_before() -> None:
    setting: list[Any] = []

    def step(*_: object) -> None:
        thread = threading.Thread(target=lambda: setting.append(torch.compiler.set_stance("eager_on_recompile")))
        thread.start()
        thread.join()

    before = stance()
    try:
        torchprof.estimate(nn.Linear(8, 8), (4, 8), step=step, steps=1, device="cpu")
        setting[0].__exit__(None, None, None)
        assert stance().stance == "default"
    finally:
        eval_frame._stance = before


# What a copied model keeps of the original.


def wrapped(module: nn.Module) -> nn.Module:
    forward = module.forward

    @functools.wraps(forward)
    def sine(x: Tensor) -> Tensor:
        result: Tensor = forward(x).sin()
        return result

    module.forward = sine
    return module


def hooked(module: nn.Module) -> nn.Module:
    module.register_forward_hook(lambda _, __, y: y * module.bias)
    return module


def by_partial(module: nn.Module) -> nn.Module:
    module.forward = functools.partial(lambda model, x: nn.Linear.forward(model, x), module)
    return module


@pytest.mark.parametrize("change", [wrapped, hooked, by_partial])
def test_functions_around_a_module_use_its_copy(change: Callable[[nn.Module], nn.Module]) -> None:
    model = nn.Sequential(nn.Linear(8, 8), change(nn.Linear(8, 8)))
    found = torchprof.estimate(model, (4, 8), optimizer=torch.optim.SGD, device="cpu")
    assert found.by_category["parameters"] == 2 * (64 + 8) * 4
    assert [parameter.grad for parameter in model.parameters()] == [None] * 4
    assert found.notes == ()


def test_a_step_that_uses_the_model_itself_is_told_so_and_leaves_no_gradients() -> None:
    model = nn.Linear(8, 8)
    model.bias.grad = before = torch.ones(8)
    with pytest.raises(EstimateError, match=r"the program uses weight, bias of the model itself.*step= is called with"):
        torchprof.estimate(model, (4, 8), step=lambda _, __, x: model(x).sum().backward(), device="cpu")
    assert model.weight.grad is None
    assert model.bias.grad is before


@pytest.mark.parametrize("allow_real", [False, True])
def test_another_model_that_a_loss_uses_is_named_and_keeps_its_gradients(allow_real: bool) -> None:
    teacher = nn.Linear(8, 8)
    found = torchprof.estimate(nn.Linear(8, 8), (4, 8), loss=lambda y: teacher(y).sum(), device="cpu", allow_real=allow_real)
    assert [parameter.grad for parameter in teacher.parameters()] == [None, None]
    assert found.notes == ("2 tensors that the program holds beside model and inputs: 288 B",)
