"""The main job: the tutorial's network and a real transformer, summarised."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel

import torchprof


class Net(nn.Module):
    """The convolutional network of the tutorial."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, kernel_size=3, padding=1)
        self.conv2 = nn.Conv2d(32, 64, kernel_size=3, padding=1)
        self.conv3 = nn.Conv2d(64, 128, kernel_size=3, padding=1)
        self.relu = nn.ReLU()
        self.pool = nn.MaxPool2d(2)
        self.fc1 = nn.Linear(128 * 14 * 14, 64)
        self.fc2 = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        for conv in (self.conv1, self.conv2, self.conv3):
            x = self.pool(self.relu(conv(x)))
        return self.fc2(self.relu(self.fc1(x.flatten(1))))


def main() -> None:
    print("The tutorial's network, as torchsummary prints it:\n")
    torchprof.summary(Net(), input_size=(3, 112, 112), batch_size=4, style="torchsummary")

    print("\nThe same, with what that table lacks:\n")
    torchprof.summary(Net(), input_size=(3, 112, 112), batch_size=4, backward=True, warmup=1)

    print("\nGPT-2 (124 million parameters, random weights), equal blocks folded:\n")
    gpt2 = GPT2LMHeadModel(GPT2Config())
    tokens = {"input_ids": torch.zeros(1, 64, dtype=torch.long)}
    torchprof.summary(gpt2, input_data=tokens, backward=True, fold=True, warmup=1)

    print("\nThe same transformer at the size of GPT-3, on `meta`: no memory, no arithmetic:\n")
    with torch.device("meta"):
        gpt3 = GPT2LMHeadModel(GPT2Config(n_embd=12288, n_layer=96, n_head=96, n_positions=2048))
        tokens = {"input_ids": torch.zeros(1, 2048, dtype=torch.long)}
    torchprof.summary(gpt3, input_data=tokens, fold=True, depth=3)


if __name__ == "__main__":
    main()
