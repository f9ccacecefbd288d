"""The tutorial's network: what the demo, the README, the documentation and their tests look at."""

from __future__ import annotations

from torch import Tensor, nn


class MyNetwork(nn.Module):
    """A small convolutional network for images, whose ReLU and pooling layer are each used twice."""

    def __init__(self, num_class: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, 7, stride=2, padding=1)
        self.bn1 = nn.BatchNorm2d(32)
        self.conv2 = nn.Conv2d(32, 64, 3, stride=1, padding=1)
        self.bn2 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.conv3 = nn.Conv2d(64, 128, 3, stride=1, padding=1)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc1 = nn.Linear(128, 1024)
        self.fc2 = nn.Linear(1024, num_class)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.maxpool(self.relu(self.bn2(self.conv2(x))))
        x = self.avgpool(self.conv3(x)).flatten(1)
        return self.fc2(self.fc1(x))
