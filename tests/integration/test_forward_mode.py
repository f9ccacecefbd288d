"""FLOPs of forward-mode AD: products with tangents count beside those of the values, however they are asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.utils.flop_counter import FlopCounterMode

import torchprof

Differentiated = Callable[[Any, Tensor], Tensor]


def by_dual_numbers(function: Any, x: Tensor) -> Tensor:
    with forward_ad.dual_level():
        result = function(forward_ad.make_dual(x, torch.ones_like(x)))
        return forward_ad.unpack_dual(result).tangent.clone()


def of_parameters(function: nn.Module, x: Tensor) -> Tensor:
    with forward_ad.dual_level():
        duals = {name: forward_ad.make_dual(value, torch.ones_like(value)) for name, value in function.named_parameters()}
        return forward_ad.unpack_dual(torch.func.functional_call(function, duals, (x,))).tangent.clone()


def by_jvp(function: Any, x: Tensor) -> Tensor:
    values, tangents = torch.func.jvp(function, (x,), (torch.ones_like(x),))
    return values + tangents


def by_mapped_jvp(function: Any, x: Tensor) -> Tensor:
    return torch.func.vmap(lambda row: torch.func.jvp(function, (row,), (torch.ones_like(row),))[1])(x)


def twice(function: Any, x: Tensor) -> Tensor:
    return by_jvp(lambda y: by_jvp(function, y), x)


class Attends(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.softmax(x @ x.transpose(-1, -2), -1) @ x


class Differentiates(nn.Module):
    def __init__(self, inner: nn.Module, how: Differentiated) -> None:
        super().__init__()
        self.inner = inner
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        return self.how(self.inner, x)


LAYERS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "linear": (nn.Linear(4, 8), (3, 4)),
    "convolution": (nn.Conv2d(4, 6, 3, groups=2), (2, 4, 8, 8)),
    "transposed convolution": (nn.ConvTranspose2d(3, 4, 3), (2, 3, 8, 8)),
    "deep": (nn.Sequential(nn.Linear(4, 4, bias=False), nn.Tanh(), nn.Linear(4, 4)), (3, 4)),
    "attention": (Attends(), (2, 3, 4)),
}
WAYS = [by_dual_numbers, of_parameters, by_jvp, by_mapped_jvp, twice]


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("how", WAYS, ids=lambda how: how.__name__)
def test_products_of_tangents_are_counted(name: str, how: Differentiated) -> None:
    layer, size = LAYERS[name]
    model, x = Differentiates(layer, how), torch.rand(size)
    if how is of_parameters and not list(layer.parameters()):
        pytest.skip("it has no parameters")
    with FlopCounterMode(display=False) as counter:
        model(x)
    totals = torchprof.summary(model, input_data=x, verbose=0).totals
    assert (totals.flops, totals.flops_unknown) == (counter.get_total_flops(), {})
    with torchprof.profile(model) as prof:
        model(x)
    assert torchprof.by_module(prof.trace).rows[0]["flops"] == counter.get_total_flops()


def test_a_linear_layer_has_three_products() -> None:
    one = 2 * 3 * 4 * 8
    model = Differentiates(nn.Linear(4, 8), by_dual_numbers)
    assert torchprof.summary(model, (3, 4), verbose=0).totals.flops == 3 * one  # of values, and of each tangent
    with_backward = torchprof.summary(model, (3, 4), backward=True, verbose=0).totals
    assert (with_backward.flops, with_backward.flops_backward) == (3 * one, one)


def test_without_tangents_inside_a_level_nothing_is_counted_twice() -> None:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            with forward_ad.dual_level():
                forward_ad.make_dual(x, torch.ones_like(x))
                return self.conv(x)

    assert torchprof.summary(Plain(), (2, 3, 8, 8), verbose=0).totals.flops == 2 * 2 * 4 * 6 * 6 * 3 * 9
