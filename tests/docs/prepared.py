"""The names that examples may use without making them: small models, batches and traces in place of a reader's own."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import find_the_leak
import torch
import transformers
from handwritten import gpu_trace
from many_ranks import HOURS, meeting_trace, rank_trace, two_stages
from my_network import MyNetwork
from pytest_runs import loaded
from torch import nn

import torchprof
from torchprof import Trace

ROOT = Path(__file__).parents[2]
HAS_GPU = torch.cuda.is_available()

LLAMA = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 256}
BERT = LLAMA | {"type_vocab_size": 2}


EVERY_RANK = {"name": "0", "description": "default_pg", "backend": "gloo", "ranks": [0, 1, 2, 3]}


def names() -> dict[str, Any]:
    """What pages have to begin with; anything else they say, or import from here in a block that readers do not see."""
    return {"torch": torch, "nn": nn, "torchprof": torchprof, "prepared": sys.modules[__name__]}


def names_of_docstrings() -> dict[str, Any]:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

    def train_step(batch: torch.Tensor) -> None:
        model(batch).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    return {
        **names(),
        **{name: getattr(torchprof, name) for name in torchprof.__all__},
        "model": model,
        "sizes": (4, 3, 112, 112),
        "batches": batches(),
        "train_step": train_step,
        "bert": transformers.BertModel(transformers.BertConfig(**BERT)),
        "ids": torch.zeros(1, 16, dtype=torch.long),
        "mask": torch.ones(1, 16, dtype=torch.long),
        "LlamaForCausalLM": transformers.LlamaForCausalLM,
        "config": llama_config(),
        "trace": trained(),
        "prof": SimpleNamespace(trace=trained()),
    }


def names_of_gpu_docstrings() -> dict[str, Any]:
    return {**names_of_docstrings(), "prof": SimpleNamespace(trace=gpu_trace())}


def run_pytest(*arguments: str) -> None:
    """Print what a run of pytest prints, with the plugin, in the root of the repository."""
    command = [sys.executable, "-m", "pytest", *loaded(), "-q", "-W", "ignore", "-p", "no:cacheprovider", *arguments]
    environment = {**os.environ, "COLUMNS": "120", "OMP_NUM_THREADS": "1"}
    print(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment).stdout)


def llama_config() -> transformers.LlamaConfig:
    return transformers.LlamaConfig(**LLAMA, num_key_value_heads=4, max_position_embeddings=4096)


def batches(count: int = 6, size: int = 4) -> list[torch.Tensor]:
    """Images for the tutorial's network."""
    return [torch.randn(size, 3, 112, 112) for _ in range(count)]


def save_ranks(folder: str) -> None:
    """Four ranks, of which rank 2 takes longer in forward."""
    for rank in range(4):
        rank_trace(rank, forward=(20 if rank == 2 else 10,) * 3, process_groups=[EVERY_RANK]).save(folder)


def pipeline_ranks() -> torchprof.Ranks:
    """Two stages of a pipeline, of which the second takes longer."""
    return torchprof.Ranks.of(two_stages(steps=2))


def late_ranks() -> torchprof.Ranks:
    """Four ranks on two hosts, whose clocks are an hour apart; rank 2 comes late to what they do together."""
    came = [[10, 10, 18, 10], [12, 10, 18, 10], [14, 10, 11, 10]]
    meshes = [{"dimensions": ["dp", "tp"], "shape": [2, 2], "coordinate": [rank // 2, rank % 2]} for rank in range(4)]
    return torchprof.Ranks.of(
        [
            meeting_trace(rank, came, origin=HOURS * (rank // 2), host=f"node{rank // 2}", meshes=[meshes[rank]])
            for rank in range(4)
        ]
    )


def leaky_training() -> dict[str, Any]:
    """What a loop needs that trains examples/find_the_leak.py."""
    model = find_the_leak.network()
    return {
        "model": model,
        "optimizer": torch.optim.AdamW(model.parameters()),
        "batches": [(torch.randn(128, 256), torch.randint(10, (128,))) for _ in range(6)],
        "loss": nn.functional.cross_entropy,
    }


@functools.cache
def trained() -> Trace:
    """Six steps of the tutorial's network, one of them warm-up."""
    model = MyNetwork(num_class=2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with torchprof.profile(model, stacks=True, schedule=torchprof.schedule(warmup=1, active=5)) as prof:
        for x in batches():
            nn.functional.cross_entropy(model(x), torch.zeros(4, dtype=torch.long)).backward()
            optimizer.step()
            optimizer.zero_grad()
            prof.step()
    return prof.trace
