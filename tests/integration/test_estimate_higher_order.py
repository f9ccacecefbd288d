"""Operators that call others, in estimates: attention with functions of the user's own, branches and loops."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch
from test_estimate import measured_peak
from torch import Tensor, nn
from torch._higher_order_ops.associative_scan import associative_scan
from torch._higher_order_ops.map import map as mapped
from torch._higher_order_ops.while_loop import while_loop
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

import torchprof
from torchprof import EstimateError

X = (2, 4, 256, 64)
ONE = 2 * 4 * 256 * 64 * 4
"""Bytes of a query."""
SCORES = 2 * 4 * 256 * 256 * 4
LOG_SUM_EXP = 2 * 4 * 256 * 4


@pytest.fixture(autouse=True)
def forgetful() -> None:
    torch._dynamo.reset()


class Flexible(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 64)
        self.bias = nn.Parameter(torch.zeros(256, 256))

    def forward(self, x: Tensor) -> Tensor:
        q = self.linear(x)
        result: Any = flex_attention(q, q, q)
        return result  # type: ignore[no-any-return]


class Masked(Flexible):
    def forward(self, x: Tensor) -> Tensor:
        q = self.linear(x)
        mask = create_block_mask(lambda b, h, i, j: i >= j, None, None, 256, 256, device="cuda")
        return flex_attention(q, q, q, block_mask=mask)  # type: ignore[return-value]


class Biased(Flexible):
    """The function takes a parameter from around it, which has a gradient."""

    def forward(self, x: Tensor) -> Tensor:
        q, bias = self.linear(x), self.bias
        return flex_attention(q, q, q, score_mod=lambda score, b, h, i, j: score + bias[i, j])  # type: ignore[return-value]


def forward_of(model: nn.Module, optimizer: Any, x: Tensor) -> None:
    with torch.no_grad():
        model(x)


@pytest.mark.parametrize("make", [Flexible, Masked, Biased])
@pytest.mark.parametrize("trains", [False, True])
def test_flex_attention_makes_all_scores_unless_it_is_compiled(make: type[nn.Module], trains: bool) -> None:
    x = torch.empty(X, device="meta")
    sizes = []
    for choice in (False, True):
        torch._dynamo.reset()
        found = torchprof.estimate(make(), x, step=None if trains else forward_of, steps=1, compile=choice)
        sizes.append(found.memory.allocations["bytes"].tolist())
    plain, compiled = sizes
    assert plain.count(SCORES) >= 3
    assert max(plain) == SCORES
    assert SCORES // 4 + SCORES // 4 // 256 + 4 in plain  # what the softmax takes beside its result
    assert max(compiled) == ONE
    assert compiled.count(LOG_SUM_EXP) >= 1


@pytest.mark.parametrize(("compiled", "noted"), [(False, True), (True, False)])
def test_what_the_program_compiles_of_it_itself_is_noted(compiled: bool, noted: bool) -> None:
    compiled_function = torch.compile(flex_attention)

    class Compiled(nn.Module):
        def forward(self, q: Tensor) -> Tensor:
            return compiled_function(q, q, q)  # type: ignore[return-value]

    found = torchprof.estimate(Compiled(), torch.empty(1, 2, 256, 64), step=forward_of, capacity="A100-80GB", compile=compiled)
    assert any("as it is written it makes all scores" in note for note in found.notes) is noted


def test_what_a_score_function_takes_from_around_it_has_a_gradient() -> None:
    for choice in (False, True):
        torch._dynamo.reset()
        found = torchprof.estimate(Biased(), X, steps=2, optimizer=torch.optim.SGD, compile=choice)
        assert found.by_category["gradients"] >= 256 * 256 * 4


class Sums(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 64)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = associative_scan(lambda p, q: p + q, self.linear(x), 0, combine_mode="generic")
        return result


class Branches(Sums):
    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = torch.cond(x.sum() > 0, lambda x: self.linear(x).sin(), lambda x: x.cos(), (x,))
        return result


class Maps(Sums):
    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = mapped(lambda row: row.sin(), self.linear(x))
        return result


class Loops(Sums):
    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = while_loop(lambda i, x: i < 5, lambda i, x: (i + 1, x.sin()), (torch.zeros((), dtype=torch.long), x))[
            1
        ]
        return result


def test_an_associative_scan_takes_what_it_does_on_the_cpu() -> None:
    model, x = Sums(), torch.rand(16, 64)
    found = torchprof.estimate(model, {"x": x}, optimizer=torch.optim.SGD, device="cpu").max_allocated
    model(x).sum().backward()
    model.zero_grad()
    gc.collect()
    gc.disable()
    try:
        assert found == measured_peak(model, {"x": x}, torch.optim.SGD(model.parameters()))
    finally:
        gc.enable()


def test_a_branch_by_value_asks_for_stand_ins() -> None:
    x = torch.rand(16, 64)
    with pytest.raises(EstimateError, match=r"reads the values of a tensor.*allow_real"):
        torchprof.estimate(Branches(), x, step=forward_of, steps=1)
    found = torchprof.estimate(Branches(), x, step=forward_of, steps=1, allow_real=True)
    assert found.memory.allocations["bytes"].tolist().count(x.nbytes) == 3  # the input, the layer's output, and its sine


@pytest.mark.parametrize("make", [Branches, Maps])
def test_gradients_through_branches_and_loops_are_an_error_that_names_them(make: type[nn.Module]) -> None:
    with pytest.raises(EstimateError, match=r"torch\.(cond|map) saves for backward"):
        torchprof.estimate(make(), (16, 64), steps=1, allow_real=True)


@pytest.mark.parametrize("choice", [False, True])
def test_a_loop_that_ends_by_value_is_an_error_that_names_it(choice: bool) -> None:
    with pytest.raises(EstimateError, match=r"higher_order\.while_loop"):
        torchprof.estimate(Loops(), (16, 64), step=forward_of, steps=1, compile=choice, allow_real=True)


def test_afterwards_dynamo_reads_as_before() -> None:
    before = torch._higher_order_ops.utils.setup_compilation_env
    torchprof.estimate(Flexible(), X, steps=1)
    assert torch._higher_order_ops.utils.setup_compilation_env is before
    q = torch.rand(1, 1, 128, 16)
    assert flex_attention(q, q, q).shape == q.shape  # type: ignore[union-attr]
