"""The main job: the tutorial's network and a real transformer, summarized."""

from __future__ import annotations

import torch
from my_network import MyNetwork
from transformers import GPT2Config, GPT2LMHeadModel

import torchprof


def main() -> None:
    print("The tutorial's network, as torchsummary prints it:\n")
    torchprof.summary(MyNetwork(num_class=2), input_size=(3, 112, 112), batch_size=4, style="torchsummary")

    print("\nThe same, with what that table lacks:\n")
    torchprof.summary(MyNetwork(num_class=2), input_size=(3, 112, 112), batch_size=4, backward=True, warmup=1)

    print("\nGPT-2 (124 million parameters, random weights), identical blocks folded:\n")
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
