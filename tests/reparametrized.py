"""Modules whose ``weight`` or ``bias`` is no parameter of theirs: the torchsummary package counts what it reads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.ao.quantization import quantize_dynamic
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm


class Symmetric(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.triu() + x.triu(1).mT


class Through(nn.Module):
    """A parametrization that has a layer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)


def parametrized(*parametrizations: nn.Module, bias: nn.Module | None = None) -> nn.Module:
    layer = nn.Linear(4, 4)
    for each in parametrizations:
        parametrize.register_parametrization(layer, "weight", each)
    if bias is not None:
        parametrize.register_parametrization(layer, "bias", bias)
    return layer


class WeightIsAProperty(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stored = nn.Parameter(torch.ones(4, 4))

    @property
    def weight(self) -> Tensor:
        return self.stored * 2

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight


class WeightOfAnother(nn.Module):
    """Asks the layer in it for every attribute that it does not have."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.layer, name)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class Holds(nn.Module):
    """Its weight is a buffer, a plain tensor or None; its bias a parameter."""

    def __init__(self, weight: Tensor | None, *, buffer: bool = False) -> None:
        super().__init__()
        if buffer:
            self.register_buffer("weight", weight)
        else:
            self.weight = weight
        self.bias = nn.Parameter(torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        return (x @ self.weight if self.weight is not None else x) + self.bias


class WeightIsAMethod(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.ones(4))

    def weight(self) -> Tensor:
        return self.bias * 2

    def forward(self, x: Tensor) -> Tensor:
        return x + self.weight()


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(4, 4), nn.Linear(4, 4)
        self.decoder.weight = self.encoder.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.encoder(x))


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.linear = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.attention(x[:, None], x[:, None], x[:, None])[0])


class MadeByForward(nn.Module):
    """Registers a layer when it is first called, which no hook was registered for."""

    def forward(self, x: Tensor) -> Tensor:
        if not hasattr(self, "made"):
            self.made = nn.Linear(4, 4)
        return self.made(x)


class ReturnsNothing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.empty = Empty()

    def forward(self, x: Tensor) -> Tensor:
        self.empty(x)
        return x


class Empty(nn.Module):
    def forward(self, x: Tensor) -> tuple[()]:
        return ()


class Shared(nn.Module):
    """A parametrized layer in two blocks: it has two hooks, and each of them reads the weight."""

    def __init__(self) -> None:
        super().__init__()
        layer = parametrized(Symmetric())
        self.a, self.b = nn.Sequential(layer), nn.Sequential(nn.Tanh(), layer)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x))


def pruned() -> nn.Module:
    layer = nn.Linear(4, 4)
    prune.l1_unstructured(layer, "weight", 0.5)
    prune.random_unstructured(layer, "bias", 0.5)
    return layer


def no_longer_pruned() -> nn.Module:
    layer = nn.Linear(4, 4)
    prune.l1_unstructured(layer, "weight", 0.5)
    return prune.remove(layer, "weight")


KINDS: Final[dict[str, Callable[[], nn.Module]]] = {
    "weight_norm": lambda: weight_norm(nn.Linear(4, 4)),
    "weight_norm of the bias": lambda: weight_norm(nn.Linear(4, 4), "bias", dim=None),
    "weight_norm, frozen": lambda: weight_norm(nn.Linear(4, 4)).requires_grad_(False),
    "spectral_norm": lambda: spectral_norm(nn.Linear(4, 4)),
    "parametrizations.weight_norm": lambda: parametrizations.weight_norm(nn.Linear(4, 4)),
    "parametrizations.weight_norm, frozen": lambda: parametrizations.weight_norm(nn.Linear(4, 4)).requires_grad_(False),
    "parametrizations.spectral_norm": lambda: parametrizations.spectral_norm(nn.Linear(4, 4)),
    "parametrizations.orthogonal": lambda: parametrizations.orthogonal(nn.Linear(4, 4)),
    "parametrize": lambda: parametrized(Symmetric()),
    "parametrize twice, and the bias": lambda: parametrized(Through(), nn.Tanh(), bias=nn.Tanh()),
    "a parametrized parametrization": lambda: parametrized(parametrizations.weight_norm(nn.Linear(4, 4))),
    "parametrized, in two blocks": Shared,
    "prune": pruned,
    "prune.remove": no_longer_pruned,
    "property": WeightIsAProperty,
    "method": WeightIsAMethod,
    "of another module": WeightOfAnother,
    "buffer": lambda: Holds(torch.ones(4, 4), buffer=True),
    "plain tensor": lambda: Holds(torch.ones(4, 4)),
    "plain tensor that requires a gradient": lambda: Holds(torch.ones(4, 4, requires_grad=True)),
    "None": lambda: Holds(None),
    "tied": Tied,
    "MultiheadAttention": Attention,
    "lazy": lambda: nn.LazyLinear(4),
    "quantized": lambda: quantize_dynamic(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), {nn.Linear}, dtype=torch.qint8),
    "made by forward": MadeByForward,
    "returns an empty tuple": ReturnsNothing,
}
"""Each takes a tensor of ``[batch, 4]``."""
