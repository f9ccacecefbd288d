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
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

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


def test_a_rank_of_64_of_llama_70b(side_by_side: SideBySide) -> None:
    layers = side_by_side.size(80, 2)
    config = LlamaConfig(
        num_hidden_layers=layers,
        hidden_size=8192,
        intermediate_size=28672,
        num_attention_heads=64,
        num_key_value_heads=8,
        vocab_size=128256,
        max_position_embeddings=8192,
    )
    tokens = torch.empty(1, 4096, dtype=torch.long, device="meta")

    def build() -> nn.Module:
        mesh = init_device_mesh("cuda", (64,))
        model = LlamaForCausalLM(config)
        half = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
        for layer in model.model.layers:
            fully_shard(layer, mesh=mesh, mp_policy=half)
        fully_shard(model, mesh=mesh, mp_policy=half)
        return model

    def ours() -> float:
        begin = time.process_time()
        given = {"input_ids": tokens, "labels": tokens}
        torchprof.estimate(build, given, optimizer=torch.optim.AdamW, capacity="H100-80GB", world_size=64)
        return time.process_time() - begin

    side_by_side(
        f"two steps of Llama 70B with {layers} layers as one of 64 ranks, FSDP2, AdamW, processor time",
        {"torchprof.estimate(world_size=64)": ours},
        unit="s",
        rounds=1,
    )
