"""``summary()`` of a deep network against running it, and against its peers."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from typing import Any

import torch
import torchinfo
import torchsummary
from conftest import Peer, SideBySide
from peers import torch_profiler
from torch import Tensor, nn
from transformers import GPT2Config, GPT2Model

import torchprof


def timed(work: Callable[[], Any]) -> Peer:
    def peer() -> float:
        begin = time.perf_counter()
        work()
        return (time.perf_counter() - begin) * 1e3

    return peer


def test_summary_of_a_transformer(side_by_side: SideBySide) -> None:
    layers = side_by_side.size(24, 2)
    model = GPT2Model(GPT2Config(n_layer=layers, n_embd=64, n_head=2, vocab_size=100, n_positions=64)).eval()
    data = {"input_ids": torch.zeros(1, 16, dtype=torch.long)}

    def profiled() -> None:
        with torch_profiler(record_shapes=True, profile_memory=True) as profiler:
            model(**data)
        profiler.key_averages().table(row_limit=10)

    contest = side_by_side(
        f"summary of GPT-2 with {layers} layers of width 64",
        {
            "plain forward": timed(lambda: model(**data)),
            "torchprof.summary": timed(lambda: torchprof.summary(model, input_data=data, verbose=0)),
            "torchprof.summary, as text": timed(lambda: str(torchprof.summary(model, input_data=data, verbose=0))),
            "torchinfo": timed(lambda: torchinfo.summary(model, input_data=data, verbose=0)),
            "torch.profiler + table": timed(profiled),
        },
        unit="ms",
        rounds=15,
    )
    assert len(contest.medians) == 5


class Block(nn.Module):
    """What torchsummary can look at: its hooks take nothing but tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 64), nn.LayerNorm(64))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


def test_summary_of_residual_blocks(side_by_side: SideBySide) -> None:
    blocks = side_by_side.size(24, 2)
    model = nn.Sequential(*[Block() for _ in range(blocks)]).eval()
    x = torch.rand(2, 64)

    def by_torchsummary() -> None:
        with redirect_stdout(StringIO()):
            torchsummary.summary(model, (64,), device="cpu")

    contest = side_by_side(
        f"summary of {blocks} residual blocks",
        {
            "plain forward": timed(lambda: model(x)),
            "torchprof.summary": timed(lambda: torchprof.summary(model, (64,), batch_size=2, verbose=0)),
            "torchinfo": timed(lambda: torchinfo.summary(model, input_size=(2, 64), verbose=0)),
            "torchsummary": timed(by_torchsummary),
        },
        unit="ms",
        rounds=15,
    )
    assert len(contest.medians) == 4
