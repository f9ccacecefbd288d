"""A language model in plain PyTorch, of which others published what GPUs allocated: rotary positions, attention written out.

It was written by what their histories show, block by block.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["AdamW", "LanguageModel", "cross_entropy"]


class Linear(nn.Module):
    """A batch of one product, as ``einsum`` makes it: by the rows of x, or by those of the weight, which come first then."""

    def __init__(self, inputs: int, outputs: int, weight_first: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        self.weight_first = weight_first

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(1, -1, x.shape[-1])
        y = torch.bmm(self.weight[None], rows.mT).mT if self.weight_first else torch.bmm(rows, self.weight.T[None])
        return y.reshape(*x.shape[:-1], -1)


class Embedding(nn.Module):
    def __init__(self, words: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(words, width))

    def forward(self, ids: Tensor) -> Tensor:
        return self.weight[ids, :]


class RMSNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        dtype, x = x.dtype, x.float()
        scale = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5)
        x = x * scale
        return (self.weight * x).to(dtype)


class Rotary(nn.Module):
    def __init__(self, length: int, width: int) -> None:
        super().__init__()
        angles = torch.arange(length)[:, None] * 10_000.0 ** -(torch.arange(0, width, 2) / width)
        self.register_buffer("angles", torch.stack((torch.cos(angles), torch.sin(angles))), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        first, second = x.unflatten(-1, (-1, 2)).unbind(-1)
        cos, sin = self.angles
        turned = (cos * first - sin * second, sin * first + cos * second)
        return torch.cat([half.unsqueeze(-1) for half in turned], -1).flatten(-2)


def softmax(x: Tensor) -> Tensor:
    exponentials = torch.exp(x - torch.max(x, -1, keepdim=True)[0])
    return exponentials / torch.sum(exponentials, -1, keepdim=True)


class Attention(nn.Module):
    def __init__(self, width: int, heads: int, rotary: Rotary, weight_first: bool) -> None:
        super().__init__()
        self.heads, self.rotary = heads, rotary
        self.q, self.k, self.v, self.output = (Linear(width, width, weight_first) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (projection(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for projection in (self.q, self.k, self.v))
        q, k = self.rotary(q), self.rotary(k)
        places = torch.arange(x.shape[1])
        mask = places[None, None, :, None] >= places[None, None, None, :]
        return self.output(self.attend(q, k, v, mask).transpose(1, 2).flatten(-2))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        scores = torch.einsum("bhqd,bhkd->bhqk", q, k) / math.sqrt(q.shape[-1])
        weights = softmax(torch.where(mask, scores, float("-inf")))
        return torch.einsum("bhqk,bhkd->bhqd", weights, v)


class FeedForward(nn.Module):
    def __init__(self, width: int, hidden: int, weight_first: bool) -> None:
        super().__init__()
        self.gate, self.up = (Linear(width, hidden, weight_first) for _ in range(2))
        self.down = Linear(hidden, width, weight_first)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.gate(x)
        return self.down(gate * torch.sigmoid(gate) * self.up(x))


class Block(nn.Module):
    def __init__(self, width: int, heads: int, hidden: int, rotary: Rotary, weight_first: bool) -> None:
        super().__init__()
        self.attention = Attention(width, heads, rotary, weight_first)
        self.feed_forward = FeedForward(width, hidden, weight_first)
        self.before_attention, self.before_feed_forward = RMSNorm(width), RMSNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        attended = x + self.attention(self.before_attention(x))
        return attended + self.feed_forward(self.before_feed_forward(attended))


class LanguageModel(nn.Module):
    """Of ids of words, the scores of the next."""

    def __init__(
        self,
        *,
        layers: int,
        width: int,
        heads: int,
        hidden: int,
        length: int,
        words: int = 10_000,
        weight_first: bool = False,
    ) -> None:
        super().__init__()
        self.embedding = Embedding(words, width)
        rotary = Rotary(length, width // heads)
        self.layers = nn.Sequential(*(Block(width, heads, hidden, rotary, weight_first) for _ in range(layers)))
        self.norm = RMSNorm(width)
        self.scores = Linear(width, words, weight_first)

    def forward(self, ids: Tensor) -> Tensor:
        return self.scores(self.norm(self.layers(self.embedding(ids))))


def cross_entropy(scores: Tensor, targets: Tensor) -> Tensor:
    rescaled = scores - torch.max(scores, -1, keepdim=True)[0]
    chosen = rescaled - torch.log(torch.sum(torch.exp(rescaled), -1, keepdim=True))
    return torch.mean(-torch.gather(chosen, -1, targets.unsqueeze(-1)))


class AdamW(torch.optim.Optimizer):
    """Written out, one parameter after the other.

    Args:
        parameters: what it trains.
        in_place: whether the state is written to; else it is made anew in each step.
    """

    def __init__(self, parameters: Any, *, in_place: bool = False) -> None:
        super().__init__(parameters, {})
        self.in_place = in_place

    def step(self, closure: Any = None) -> None:
        for parameter in self.param_groups[0]["params"]:
            (self._in_place if self.in_place else self._anew)(parameter.data, parameter.grad.data, self.state[parameter])

    def _in_place(self, parameter: Tensor, gradient: Tensor, state: dict[str, Tensor]) -> None:
        if not state:
            state["m"], state["v"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        state["m"].mul_(0.9).add_(gradient, alpha=0.1)
        state["v"].mul_(0.95).addcmul_(gradient, gradient, value=0.05)
        deviation = state["v"].sqrt() + 1e-8
        parameter.addcdiv_(state["m"], deviation, value=-1e-3)

    def _anew(self, parameter: Tensor, gradient: Tensor, state: dict[str, Tensor]) -> None:
        m, v = (state.get(name, torch.zeros_like(gradient)) for name in "mv")
        m = 0.9 * m + 0.1 * gradient
        v = 0.95 * v + 0.05 * torch.square(gradient)
        parameter -= 1e-3 * m / (torch.sqrt(v) + 1e-8)
        parameter -= 1e-5 * parameter
        state["m"], state["v"] = m, v
