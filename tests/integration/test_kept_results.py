"""What autograd keeps is found though something else refers to the result, or what refers to it is named."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

import torchprof

X = 3 * 4 * 4
"""Bytes of the input."""


def saved(model: nn.Module, **options: Any) -> tuple[int | None, str]:
    totals = torchprof.summary(model, input_data=torch.rand(3, 4), verbose=0, **options).totals
    return totals.saved, totals.saved_unknown_because


class Keeps(nn.Module):
    def __init__(self, keep: Callable[[Any, Tensor, Tensor], object], result: Callable[[Tensor], Tensor] = torch.relu) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.keep = keep
        self.result = result

    def forward(self, x: Tensor) -> Tensor:
        y = self.result(self.layer(x))
        self.keep(self, x, y)
        return y


def test_a_result_that_the_model_keeps_is_counted_where_autograd_keeps_it() -> None:
    def last(model: Any, x: Tensor, y: Tensor) -> None:
        model.last = y

    assert saved(Keeps(last)) == (2 * X, "")  # relu saves its result
    assert saved(Keeps(last, lambda y: y + 1)) == (X, "")


def test_an_input_that_the_model_keeps_is_not_what_autograd_keeps() -> None:
    def first(model: Any, x: Tensor, y: Tensor) -> None:
        model.first = x

    assert saved(Keeps(first, lambda y: y + 1)) == (X, "")
    with torch.no_grad():
        assert saved(Keeps(first)) == (0, "")


def test_what_keeps_a_result_is_named_where_it_stays() -> None:
    def appended(model: Any, x: Tensor, y: Tensor) -> None:
        model.results = [y]

    assert saved(Keeps(appended)) == (None, "the model keeps a result in results")
    assert saved(nn.Sequential(Keeps(appended))) == (None, "the model keeps a result in 0.results")
    elsewhere: list[Tensor] = []
    assert saved(Keeps(lambda model, x, y: elsewhere.append(y))) == (None, "something still refers to the result")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("make", "more"),
    [
        (lambda: nn.utils.weight_norm(nn.Linear(4, 4)), 4 * 4),  # and the norm of every row
        (lambda: prune.l1_unstructured(nn.Linear(4, 4), "weight", 2), 0),
    ],
    ids=["weight_norm", "prune"],
)
def test_reparametrized_weights_are_known(make: Callable[[], nn.Module], more: int) -> None:
    found, why = saved(make())
    assert why == ""
    assert found is not None
    assert found == X + more


@pytest.mark.parametrize("backward", [False, True])
def test_what_autocast_casts_is_counted_each_time(backward: bool) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = [saved(model, backward=backward) for _ in range(2)]
    assert found == [(2 * (X // 2) + 4 * 4 * 2, "")] * 2  # both inputs and the second weight, of two bytes each


def test_the_model_has_what_it_had() -> None:
    def last(model: Any, x: Tensor, y: Tensor) -> None:
        model.last = y

    model = Keeps(last)
    kept = model(torch.rand(3, 4))
    torchprof.summary(model, (3, 4), verbose=0)
    assert model.last is kept
    assert kept.grad_fn is not None
    kept.sum().backward()
