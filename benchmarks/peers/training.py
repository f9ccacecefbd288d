"""The training step that recorders are compared on: many small ops, so that a step is bound by launching them."""

from __future__ import annotations

import torch
from transformers import GPT2Config, GPT2LMHeadModel


class Training:
    """GPT-2 with tiny layers, AdamW, one batch."""

    def __init__(self, layers: int) -> None:
        torch.manual_seed(0)
        self.model = GPT2LMHeadModel(GPT2Config(n_layer=layers, n_embd=64, n_head=2, vocab_size=100, n_positions=64))
        self.optimizer = torch.optim.AdamW(self.model.parameters())
        self.tokens = torch.zeros(1, 16, dtype=torch.long)

    def step(self) -> None:
        self.model(input_ids=self.tokens, labels=self.tokens).loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
