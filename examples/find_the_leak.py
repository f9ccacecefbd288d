"""A training loop with two things wrong with it, and how the tables show them: one layer is slow, and one never lets go."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import torchprof


class Smooth(nn.Module):
    """Planted: a moving average over the features, written as a loop."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([x[:, max(0, i - 3) : i + 1].mean(dim=1) for i in range(x.shape[1])], dim=1)


class Monitored(nn.Module):
    """Planted: keeps what it saw, for statistics nobody reads."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        self.seen.append(y.detach().square())
        return y


def network() -> nn.Module:
    return nn.Sequential(
        nn.Linear(256, 512),
        nn.ReLU(),
        Monitored(nn.Linear(512, 256)),
        Smooth(),
        nn.Linear(256, 10),
    )


def main() -> None:
    torch.manual_seed(0)
    model = network()
    optimizer = torch.optim.AdamW(model.parameters())
    with torchprof.profile(model, schedule=torchprof.schedule(warmup=1, active=5)) as prof:
        for _ in range(6):
            x, target = torch.randn(128, 256), torch.randint(10, (128,))
            nn.functional.cross_entropy(model(x), target).backward()
            optimizer.step()
            optimizer.zero_grad()
            prof.step()

    torchprof.by_module(prof.trace).print()
    torchprof.by_op(prof.trace, module="3").head(5).print()
    torchprof.by_step(prof.trace).print()
    torchprof.memory(prof.trace).print()


if __name__ == "__main__":
    main()
