"""Networks that the tests look at. The torchsummary package handles those in ``FOR_TORCHSUMMARY``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class Of(nn.Module):
    """Calls a function, and has nothing of its own."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


class Convolutional(nn.Module):
    """One ReLU and one pooling layer, used after every convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, 3, padding=1)
        self.conv2 = nn.Conv2d(32, 64, 3, padding=1)
        self.conv3 = nn.Conv2d(64, 128, 3, padding=1)
        self.relu = nn.ReLU()
        self.pool = nn.MaxPool2d(2)
        self.fc1 = nn.Linear(128 * 14 * 14, 64)
        self.fc2 = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        for conv in (self.conv1, self.conv2, self.conv3):
            x = self.pool(self.relu(conv(x)))
        return self.fc2(self.relu(self.fc1(x.flatten(1))))


class Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(x + self.body(x))


class Nested(nn.Module):
    """Blocks in blocks, in containers that are called and in one that is not."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU())
        self.blocks = nn.ModuleList([Residual(8), Residual(8)])
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((2, 3)))


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv2d(1, 4, 3)
        self.right = nn.Conv2d(1, 4, 3)
        self.join = nn.Linear(8, 3)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.join(torch.cat([self.left(a).mean((2, 3)), self.right(b).mean((2, 3))], 1))


class Frozen(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Linear(20, 30)
        self.head = nn.Linear(30, 4, bias=False)
        self.backbone.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.backbone(x).relu())


class SharedInTwoParents(nn.Module):
    """One module in two blocks: ``apply`` visits it twice, so torchsummary hooks it twice."""

    def __init__(self) -> None:
        super().__init__()
        activation = nn.ReLU()
        self.a = nn.Sequential(nn.Linear(6, 6), activation)
        self.b = nn.Sequential(nn.Linear(6, 6), activation)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x))


class Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x * 2


class ReturnsTuple(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pair = Pair()
        self.fc = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.pair(x)
        return self.fc(first + second)


def dropout_and_norm() -> nn.Module:
    return nn.Sequential(nn.Linear(16, 16), nn.Dropout(0.5), nn.LayerNorm(16), nn.GELU(), nn.Linear(16, 2, bias=False))


def conv1d() -> nn.Module:
    return nn.Sequential(nn.Conv1d(4, 8, 5), nn.BatchNorm1d(8), nn.MaxPool1d(2), nn.Flatten(), nn.Linear(8 * 14, 3))


def conv3d() -> nn.Module:
    return nn.Sequential(nn.Conv3d(1, 4, 3), nn.InstanceNorm3d(4, affine=True), nn.AdaptiveAvgPool3d(1), nn.Flatten())


def shared_root_child() -> nn.Module:
    layer = nn.Linear(7, 7)
    return nn.Sequential(layer, nn.Tanh(), layer)


FOR_TORCHSUMMARY: dict[str, tuple[Callable[[], nn.Module], Any]] = {
    "convolutional": (Convolutional, (3, 112, 112)),
    "nested": (Nested, (3, 32, 32)),
    "two inputs": (TwoInputs, [(1, 16, 16), (1, 28, 28)]),
    "frozen": (Frozen, (20,)),
    "shared in two parents": (SharedInTwoParents, (6,)),
    "shared in one parent": (shared_root_child, (7,)),
    "returns a tuple": (ReturnsTuple, (6,)),
    "dropout and norm": (dropout_and_norm, (16,)),
    "conv1d": (conv1d, (4, 32)),
    "conv3d": (conv3d, (1, 8, 8, 8)),
    "transposed": (lambda: nn.Sequential(nn.ConvTranspose2d(3, 6, 4, 2), nn.PReLU(6), nn.Upsample(scale_factor=2)), (3, 9, 9)),
    "embedding of floats": (lambda: nn.Sequential(nn.Linear(5, 8), nn.Unflatten(1, (2, 4)), nn.Linear(4, 4)), (5,)),
}
