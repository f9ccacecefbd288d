"""Programs of which every line is known: real models in small, trained for two steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

Program = Callable[[], tuple[nn.Module, Callable[[], None]]]


def mlp() -> tuple[nn.Module, Callable[[], None]]:
    model = nn.Sequential(nn.Linear(64, 128), nn.GELU(), nn.Linear(128, 10))
    optimizer = torch.optim.Adam(model.parameters())

    def run() -> None:
        for _ in range(2):
            x = torch.randn(32, 64)
            x = x * 2 + 1
            loss = nn.functional.cross_entropy(
                model(x),
                torch.zeros(32, dtype=torch.long),
            )
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()

    return model, run


def _language_model(model: Any, **more: Any) -> tuple[nn.Module, Callable[[], None]]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    ids = torch.randint(0, 100, (2, 16))

    def run() -> None:
        for _ in range(2):
            logits = model(input_ids=ids, **more).logits
            loss = logits.float().square().mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    return model, run


def gpt2() -> tuple[nn.Module, Callable[[], None]]:
    config = transformers.GPT2Config(n_embd=32, n_layer=2, n_head=2, vocab_size=100, n_positions=32)
    return _language_model(transformers.GPT2LMHeadModel(config), use_cache=False)


def bert() -> tuple[nn.Module, Callable[[], None]]:
    config = transformers.BertConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, vocab_size=100
    )
    return _language_model(transformers.BertForMaskedLM(config))


class Clipped(torch.autograd.Function):
    """A step function whose gradient is that of a clipped identity."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return (x > 0).float()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        inside = x.abs() < 1
        return grads[0] * inside


class Convolutions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 8, 3)
        self.out = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.first(x))
        x = Clipped.apply(x)
        for _ in range(2):
            x = torch.relu(
                self.second(x),
            )
        return self.out(x.mean((2, 3)))


def cnn() -> tuple[nn.Module, Callable[[], None]]:
    model = Convolutions()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    def run() -> None:
        for _ in range(2):
            out = model(torch.randn(2, 3, 16, 16))
            out.sum().backward()
            optimizer.step()
            optimizer.zero_grad()

    return model, run


class Checkpointed(nn.Module):
    def __init__(self, *, reentrant: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(32, 32) for _ in range(3)])
        self.reentrant = reentrant

    def block(self, layer: nn.Module, x: Tensor) -> Tensor:
        y = layer(x)
        return x + torch.tanh(y)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = checkpoint(self.block, layer, x, use_reentrant=self.reentrant)
        return x


def checkpointed(*, reentrant: bool = False) -> tuple[nn.Module, Callable[[], None]]:
    model = Checkpointed(reentrant=reentrant)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def run() -> None:
        for _ in range(2):
            out = model(torch.randn(8, 32, requires_grad=True))
            out.sum().backward()
            optimizer.step()
            optimizer.zero_grad()

    return model, run


def reentrant() -> tuple[nn.Module, Callable[[], None]]:
    return checkpointed(reentrant=True)


PROGRAMS: dict[str, Program] = {
    "mlp": mlp,
    "gpt2": gpt2,
    "bert": bert,
    "cnn": cnn,
    "checkpointed": checkpointed,
    "reentrant": reentrant,
}
