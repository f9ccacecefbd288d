"""A lazy module is summarized as what it becomes, and is lazy afterwards."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

import torchprof


class Scale(nn.Module):
    """What `LazyScale` becomes."""

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x * self.weight + self.offset
        return y


class LazyScale(LazyModuleMixin, Scale):  # type: ignore[misc]
    """A lazy module of the program's own, with a buffer that is lazy too."""

    cls_to_become = Scale  # type: ignore[assignment]

    def __init__(self) -> None:
        super().__init__()
        self.weight = UninitializedParameter()
        self.register_buffer("offset", UninitializedBuffer())

    def initialize_parameters(self, x: Tensor) -> None:
        if self.has_uninitialized_params():
            self.weight.materialize(x.shape[-1:])
            self.offset.materialize(x.shape[-1:])  # type: ignore[operator,union-attr]
            nn.init.ones_(self.weight)
            self.offset.zero_()  # type: ignore[operator,union-attr]
            self.size = x.shape[-1]


def state(model: nn.Module) -> list[Any]:
    """What becoming another module changes."""
    return [
        (
            type(module),
            {name: value for name, value in vars(module).items() if not isinstance(value, dict)},
            {name: dict(value) for name, value in vars(module).items() if isinstance(value, dict)},
            [(type(t), t.requires_grad) for t in (*module._parameters.values(), *module._buffers.values()) if t is not None],
        )
        for module in model.modules()
    ]


IMAGES = ((2, 3, 8, 8), (4, 5, 9, 9))
ROWS = ((3, 7), (4, 9))

# what it is, a size to summarize it with, another to call it with, and the elements of its parameters at the first
MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[tuple[int, ...], tuple[int, ...]], int]] = {
    "LazyLinear": (lambda: nn.LazyLinear(4), ROWS, 7 * 4 + 4),
    "LazyBatchNorm1d": (lambda: nn.LazyBatchNorm1d(), ROWS, 2 * 7),
    "LazyBatchNorm2d": (lambda: nn.LazyBatchNorm2d(), IMAGES, 2 * 3),
    "LazyInstanceNorm2d": (lambda: nn.LazyInstanceNorm2d(affine=True, track_running_stats=True), IMAGES, 2 * 3),
    "LazyConv1d": (lambda: nn.LazyConv1d(4, 3), ((2, 3, 8), (2, 5, 8)), 3 * 4 * 3 + 4),
    "LazyConv2d": (lambda: nn.LazyConv2d(4, 3, bias=False), IMAGES, 3 * 4 * 9),
    "LazyConvTranspose2d": (lambda: nn.LazyConvTranspose2d(4, 3), IMAGES, 3 * 4 * 9 + 4),
    "of its own": (LazyScale, ROWS, 7),
    "several": (lambda: nn.Sequential(nn.LazyLinear(4), nn.LazyBatchNorm1d(), LazyScale()), ROWS, 32 + 8 + 4),
}


@pytest.mark.filterwarnings("ignore:Lazy modules")
@pytest.mark.parametrize("options", [{}, {"warmup": 1}, {"backward": True}])
@pytest.mark.parametrize("name", MODELS)
def test_it_is_lazy_afterwards_and_takes_another_size(name: str, options: dict[str, Any]) -> None:
    make, (size, other_size), params = MODELS[name]
    model = nn.Sequential(make())
    before = state(model)
    assert torchprof.summary(model, size, verbose=0, **options).totals.params == params
    assert state(model) == before

    torch.manual_seed(1)
    y = model(torch.ones(other_size))
    y.sum().backward()
    fresh = nn.Sequential(make())
    torch.manual_seed(1)
    assert torch.equal(y, fresh(torch.ones(other_size)))
    assert [type(module) for module in model.modules()] == [type(module) for module in fresh.modules()]
    assert [p.grad is not None for p in model.parameters()] == [True for _ in fresh.parameters()]


@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_what_is_beside_it_need_not_be_copyable() -> None:
    model = nn.Sequential(nn.LazyLinear(4), nn.Linear(4, 2))
    model.lock, model.file, model.generator = threading.Lock(), open(__file__), torch.Generator()  # noqa: SIM115
    model.derived = torch.ones(2, requires_grad=True) * 2
    before = state(model)
    assert torchprof.summary(model, (3, 7), verbose=0).totals.params == 7 * 4 + 4 + 10
    assert state(model) == before
    model.file.close()


@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_it_is_lazy_after_a_forward_that_raised() -> None:
    model = nn.Sequential(nn.LazyLinear(4), nn.Linear(5, 2))
    before = state(model)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        torchprof.summary(model, (3, 7), verbose=0)
    assert state(model) == before


@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_it_loads_parameters_afterwards() -> None:
    model = nn.Sequential(nn.LazyLinear(4))
    torchprof.summary(model, (3, 7), verbose=0)
    model.load_state_dict(nn.Sequential(nn.Linear(9, 4)).state_dict())
    assert model(torch.ones(1, 9)).shape == (1, 4)


@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_on_meta() -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.LazyLinear(4))
    before = state(model)
    assert torchprof.summary(model, (3, 7), verbose=0).totals.params == 32
    assert state(model) == before
