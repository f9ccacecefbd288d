"""An estimate's step on fake tensors, against the bare fake step and against PyTorch's MemTracker; peaks beside the truth."""

from __future__ import annotations

import time
import warnings
from typing import Any

import torch
from conftest import SideBySide
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker
from transformers import GPT2Config, GPT2LMHeadModel

import torchprof


def train(model: nn.Module, optimizer: torch.optim.Optimizer, tokens: Tensor) -> float:
    """Seconds of one step."""
    begin = time.perf_counter()
    model(input_ids=tokens, labels=tokens).loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return time.perf_counter() - begin


def test_a_step_on_fake_tensors(side_by_side: SideBySide) -> None:
    layers = side_by_side.size(12, 2)
    config = GPT2Config(n_layer=layers, n_embd=256, n_head=4, vocab_size=5000, n_positions=256)
    tokens = torch.zeros(4, 128, dtype=torch.long)
    peaks: dict[str, int] = {}

    def bare() -> float:
        with FakeTensorMode():
            model = GPT2LMHeadModel(config)
            optimizer = torch.optim.AdamW(model.parameters())
            fake = torch.zeros(4, 128, dtype=torch.long)
            return [train(model, optimizer, fake) for _ in range(3)][-1]

    def ours() -> float:
        taken: list[float] = []
        found = torchprof.estimate(
            lambda: GPT2LMHeadModel(config),
            (tokens,),
            optimizer=torch.optim.AdamW,
            step=lambda *arguments: taken.append(train(*arguments)),
            steps=3,
            device="cpu",
        )
        peaks["torchprof.estimate"] = found.max_allocated
        return taken[-1]

    def theirs() -> float:
        with warnings.catch_warnings(), FakeTensorMode():
            warnings.simplefilter("ignore")
            model = GPT2LMHeadModel(config)
            optimizer = torch.optim.AdamW(model.parameters())
            fake = torch.zeros(4, 128, dtype=torch.long)
            tracker: Any = MemTracker()
            tracker.track_external(model, optimizer, fake)
            taken = 0.0
            with tracker:
                for _ in range(3):
                    taken = train(model, optimizer, fake)
                    tracker.reset_mod_stats()
            peaks["MemTracker"] = tracker.get_tracker_snapshot("peak")[torch.device("cpu")]["Total"]
            return taken

    contest = side_by_side(
        f"one step of GPT-2 with {layers} layers of width 256 on fake tensors, AdamW, once warm",
        {"FakeTensorMode alone": bare, "torchprof.estimate": ours, "MemTracker": theirs},
        unit="s",
        rounds=3,
    )
    model = GPT2LMHeadModel(config)
    optimizer = torch.optim.AdamW(model.parameters())
    with torchprof.profile(model) as prof:
        for _ in range(2):
            train(model, optimizer, tokens)
    truth = torchprof.memory(prof.trace, "cpu").peak.bytes
    for name, peak in peaks.items():
        contest.notes[name] = f"peak {peak:,} of {truth:,} bytes: {peak / truth - 1:+.4%}"
