"""What activation checkpointing runs again in backward is a figure of its own in a summary: forward is counted once."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import torchprof
from torchprof.analysis.model.rows import Row


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.act, self.down = nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.down(self.act(self.up(x)))
        return y


class Net(nn.Module):
    """Runs its middle part checkpointed: a module, a function around modules, or a part of a checkpointed part."""

    def __init__(self, part: str, reentrant: bool) -> None:
        super().__init__()
        self.part, self.reentrant = part, reentrant
        self.first, self.block, self.last = nn.Linear(4, 4), Block(), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        def function(y: Tensor) -> Tensor:
            z: Tensor = self.last(self.block(y))
            return z

        parts: dict[str, Callable[[Tensor], Any]] = {
            "module": self.block,
            "function": function,
            "nested": lambda y: checkpoint(self.block, y, use_reentrant=self.reentrant),
        }
        y: Tensor = self.last(checkpoint(parts[self.part], self.first(x), use_reentrant=self.reentrant))
        return y


def rows(part: str, reentrant: bool) -> dict[str, Row]:
    found = torchprof.summary(Net(part, reentrant), (2, 4), backward=True, verbose=0)
    assert "Recompute" in str(found)
    assert ", recomputation: " in str(found)
    return {row.path: row for row in found.rows}


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("part", ["module", "function", "nested"])
def test_calls_bytes_and_times_of_forward_are_without_recomputation(part: str, reentrant: bool) -> None:
    found = rows(part, reentrant)
    twice = part == "function"
    assert {path: row.calls for path, row in found.items()} == dict.fromkeys(found, 1) | {"last": 2 if twice else 1}
    assert {path: row.output_bytes for path, row in found.items()} == {
        "": 32,
        "first": 32,
        "block": 32,
        "block.up": 64,
        "block.act": 64,
        "block.down": 32,
        "last": 64 if twice else 32,
    }
    assert found[""].forward_self + sum(row.forward_self for path, row in found.items() if path) == found[""].forward


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("part", ["module", "function", "nested"])
def test_no_child_takes_longer_than_its_parent(part: str, reentrant: bool) -> None:
    found = rows(part, reentrant)
    for path, row in found.items():
        if path:
            above = found[path.rpartition(".")[0]]
            assert row.forward <= above.forward
            assert row.recompute <= above.recompute
            assert row.backward <= above.backward


@pytest.mark.parametrize("reentrant", [False, True])
def test_only_what_was_checkpointed_and_what_holds_it_is_recomputed(reentrant: bool) -> None:
    found = rows("module", reentrant)
    # Without reentrance, recomputation stops as soon as it has what backward needs, which the last layer only adds to.
    assert {path for path, row in found.items() if row.recompute} >= {"", "block", "block.up", "block.act"}
    assert found["first"].recompute == found["last"].recompute == 0
    assert found[""].recompute == found["block"].recompute


def test_without_checkpoints_there_is_no_recomputation() -> None:
    found = torchprof.summary(Block(), (2, 4), backward=True, verbose=0)
    assert [row.recompute for row in found.rows] == [0] * 4
    assert "ecomput" not in str(found)


def test_the_torchsummary_style_lists_no_recomputed_call() -> None:
    found = torchprof.summary(Net("module", False), (2, 4), backward=True, verbose=0, style="torchsummary")
    assert re.findall(r"\w+-\d", str(found)) == [
        "Linear-1",
        "Linear-2",
        "Tanh-3",
        "Linear-4",
        "Block-5",
        "Linear-6",
    ]


def test_by_module_counts_calls_of_forward() -> None:
    model = Net("module", False)
    with torchprof.profile(model) as prof:
        model(torch.rand(2, 4)).sum().backward()
    counted = {row["path"]: row["calls"] for row in torchprof.by_module(prof.trace).rows if row["type"]}
    assert counted == dict.fromkeys(counted, 1)


class Keeps(nn.Module):
    """Has gradients, and a hook that must run when a gradient is stored by the program and never else."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.stored = Net("module", reentrant=True), 0
        for parameter in self.net.parameters():
            parameter.register_post_accumulate_grad_hook(self.count)

    def count(self, parameter: Tensor) -> None:
        self.stored += 1

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.net(x)
        return y


def test_a_backward_through_reentrant_checkpoints_leaves_gradients_and_hooks_alone() -> None:
    model = Keeps()
    x = torch.rand(2, 4, requires_grad=True)
    model(x).sum().backward()
    parameters = list(model.parameters())
    before = [(parameter.grad, parameter.grad.tolist()) for parameter in parameters if parameter.grad is not None]
    stored, gradient = model.stored, x.grad
    assert stored == len(parameters)
    torchprof.summary(model, input_data=x, backward=True, verbose=0)
    assert [(parameter.grad, parameter.grad.tolist()) for parameter in parameters if parameter.grad is not None] == before
    assert x.grad is gradient
    assert model.stored == stored
    model(x).sum().backward()
    assert model.stored == 2 * stored
