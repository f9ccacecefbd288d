"""Estimates of one rank beside what was published of real GPUs: ``python benchmarks/published_runs.py [WORD ...]``.

The figures are ``max_reserved`` per GPU, of torchtitan's Llama 3.1 8B on H100s with 95 GiB: FSDP2 with parameters in bfloat16
and reductions in float32, AdamW, clipping. Most are of its tables of December 2024, and the tokens per second of the eager ones
stand beside the bound of the step. Two are of a log of July 2024 (pytorch/torchtitan#382), one is of March 2025 (#929), which
ran with expandable segments. The model is written after its description; nothing is downloaded. Runs in float8 need ``pip
install torchao``, without which they are left out. With words, only those runs are estimated whose names have them all.

Not here, as PyTorch 2.13 cannot compile it: Llama 3.1 70B with tensor parallel. docs/guides/on-how-many-gpus.md tells of it.
"""

from __future__ import annotations

import importlib.util
import sys
import time
from collections import defaultdict
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts

import torchprof

WIDTH, LAYERS, HEADS, KV_HEADS, HIDDEN, VOCABULARY = 4096, 32, 32, 8, 14336, 128256


@dataclass(frozen=True)
class Run:
    """A training, and the GiB that were published as reserved per GPU."""

    name: str
    gpus: int
    reserved: float
    compiled: bool = True
    """Each block is."""
    float8: bool = False
    batch: int = 2
    sequence: int = 8192
    whole_blocks: bool = False
    """Blocks are computed again as a whole, and not all but every second product."""
    attention_saved: bool = True
    """What it returns is kept, as flash attention's was. torchtitan did not name cuDNN's, which H100s took in July 2024."""
    float32_logits: bool = False
    """The model turns them into float32, and not the loss."""
    compiled_norm: bool = False
    """The last norm is, too. Those of the blocks are compiled with their blocks."""
    head_apart: bool = False
    """Tokens are sharded by themselves, and so are the head and its norm."""
    fused: bool = False
    """AdamW is, and not with foreach."""
    allocator: str = ""
    tokens: int | None = None
    """Tokens per second and GPU."""


JULY: Final[dict[str, Any]] = {"attention_saved": False, "float32_logits": True, "compiled_norm": True, "fused": True}
RUNS: Final = (
    Run("December 2024, 8 GPUs, eager", 8, 82.4, compiled=False, tokens=5762),
    Run("December 2024, 8 GPUs, compiled", 8, 77.0),
    Run("December 2024, 8 GPUs, compiled, float8", 8, 76.8, float8=True),
    Run("December 2024, 128 GPUs, eager", 128, 67.0, compiled=False, tokens=5605),
    Run("December 2024, 128 GPUs, compiled", 128, 62.0),
    Run("December 2024, 128 GPUs, compiled, float8", 128, 61.8, float8=True),
    Run(
        "December 2024, 8 GPUs, compiled, float8, 32768 long", 8, 83.9, float8=True, batch=1, sequence=32768, whole_blocks=True
    ),
    Run("July 2024, 8 GPUs, compiled", 8, 69.04, **JULY),
    Run("July 2024, 8 GPUs, compiled, head apart", 8, 68.09, head_apart=True, **JULY),
    Run("March 2025, 8 GPUs, compiled", 8, 47.65, batch=1, fused=True, allocator="expandable_segments:True"),
)
aten = torch.ops.aten
ATTENTION: Final = {
    aten._scaled_dot_product_efficient_attention.default,
    aten._scaled_dot_product_flash_attention.default,
    aten._scaled_dot_product_cudnn_attention.default,
}
SAVED: Final = {
    aten.mm.default,
    torch.ops._c10d_functional.reduce_scatter_tensor.default,
    aten.abs.default,  # of float8: the largest value of a tensor is saved
    aten.max.default,
}


def rotated(x: Tensor, frequencies: Tensor) -> Tensor:
    pairs = torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2))
    turned = pairs * frequencies[: x.shape[1]].view(1, x.shape[1], 1, -1)
    return torch.view_as_real(turned).flatten(3).type_as(x)


def repeated(x: Tensor, times: int) -> Tensor:
    batch, length, heads, width = x.shape
    return x.unsqueeze(3).expand(batch, length, heads, times, width).reshape(batch, length, heads * times, width)


class Norm(nn.Module):
    """The norm of root mean squares, op by op, as it was then."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(WIDTH))

    def forward(self, x: Tensor) -> Any:
        wide = x.float()
        return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-5)).type_as(x) * self.weight


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        width = WIDTH // HEADS
        self.q = nn.Linear(WIDTH, HEADS * width, bias=False)
        self.k = nn.Linear(WIDTH, KV_HEADS * width, bias=False)
        self.v = nn.Linear(WIDTH, KV_HEADS * width, bias=False)
        self.out = nn.Linear(HEADS * width, WIDTH, bias=False)

    def forward(self, x: Tensor, frequencies: Tensor) -> Tensor:
        q, k, v = (layer(x).unflatten(-1, (-1, WIDTH // HEADS)) for layer in (self.q, self.k, self.v))
        q, k = rotated(q, frequencies), rotated(k, frequencies)
        k, v = (repeated(each, HEADS // KV_HEADS) for each in (k, v))
        q, k, v = (each.transpose(1, 2) for each in (q, k, v))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        projected: Tensor = self.out(mixed.transpose(1, 2).contiguous().flatten(2))
        return projected


class FeedForward(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(WIDTH, HIDDEN, bias=False)
        self.down = nn.Linear(HIDDEN, WIDTH, bias=False)
        self.up = nn.Linear(WIDTH, HIDDEN, bias=False)

    def forward(self, x: Tensor) -> Any:
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention, self.feed_forward = Attention(), FeedForward()
        self.attention_norm, self.feed_forward_norm = Norm(), Norm()

    def forward(self, x: Tensor, frequencies: Tensor) -> Any:
        x = x + self.attention(self.attention_norm(x), frequencies)
        return x + self.feed_forward(self.feed_forward_norm(x))


class Llama(nn.Module):
    def __init__(self, run: Run) -> None:
        super().__init__()
        self.float32_logits = run.float32_logits
        self.tokens = nn.Embedding(VOCABULARY, WIDTH)
        self.layers = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm = torch.compile(Norm()) if run.compiled_norm else Norm()
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        self.register_buffer("frequencies", torch.empty(run.sequence, WIDTH // HEADS // 2, dtype=torch.complex64))

    def forward(self, tokens: Tensor) -> Any:
        x = self.tokens(tokens)
        for layer in self.layers:
            x = layer(x, self.frequencies)
        logits = self.head(self.norm(x))
        return logits.float() if self.float32_logits else logits


def every_second_product(run: Run) -> Any:
    """The contexts of selective checkpointing."""
    saved = SAVED | ATTENTION if run.attention_saved else SAVED
    products: dict[bool, int] = defaultdict(int)

    def policy(context: Any, op: Any, *args: Any, **options: Any) -> CheckpointPolicy:
        if op is aten.mm.default:
            products[context.is_recompute] += 1
            if products[context.is_recompute] % 2 == 0:
                return CheckpointPolicy.PREFER_RECOMPUTE
        return CheckpointPolicy.MUST_SAVE if op in saved else CheckpointPolicy.PREFER_RECOMPUTE

    return create_selective_checkpoint_contexts(policy)  # type: ignore[no-untyped-call]


def in_float8(model: nn.Module) -> nn.Module:
    """All linear layers but the last multiply in float8, and their weights are gathered in it."""
    from torchao.float8 import Float8LinearConfig, convert_to_float8_training

    config = Float8LinearConfig(enable_fsdp_float8_all_gather=True)
    converted: nn.Module = convert_to_float8_training(
        model, config=config, module_filter_fn=lambda module, path: path != "head"
    )
    return converted


def build(run: Run) -> nn.Module:
    model = Llama(run)
    if run.float8:
        in_float8(model)
    mesh = init_device_mesh("cuda", (run.gpus,))
    half = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    shard = partial(fully_shard, mesh=mesh, mp_policy=half)
    again: dict[str, Any] = {} if run.whole_blocks else {"context_fn": partial(every_second_product, run)}
    for number, layer in enumerate(model.layers):
        block: Any = checkpoint_wrapper(layer, preserve_rng_state=False, **again)
        if run.compiled:
            block = torch.compile(block, fullgraph=True)
        model.layers[number] = block
        shard(model.layers[number], reshard_after_forward=number < LAYERS - 1)
    if run.head_apart:
        shard(model.tokens, reshard_after_forward=True)
        shard([model.norm, model.head], reshard_after_forward=False)
    shard(model, reshard_after_forward=True)
    return model


def step(model: nn.Module, optimizer: torch.optim.Optimizer, tokens: Tensor, labels: Tensor) -> None:
    optimizer.zero_grad()
    predicted = model(tokens)
    loss = F.cross_entropy(predicted.flatten(0, 1).float(), labels.flatten(0, 1))
    del predicted
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
    optimizer.step()


def main() -> None:
    words = sys.argv[1:]
    for run in (run for run in RUNS if all(word in run.name for word in words)):
        if run.float8 and not importlib.util.find_spec("torchao"):
            print(f"{run.name}: left out, as torchao is not installed")
            continue
        begin = time.perf_counter()
        tokens = torch.empty(run.batch, run.sequence, dtype=torch.long, device="meta")
        found = torchprof.estimate(
            partial(build, run),
            (tokens, torch.empty_like(tokens)),
            optimizer=partial(torch.optim.AdamW, fused=True) if run.fused else partial(torch.optim.AdamW, foreach=True),
            step=step,
            steps=3,
            capacity="H100-80GB",
            allocator=run.allocator,
            world_size=run.gpus,
        )
        reserved, seconds = found.max_reserved / 2**30, time.perf_counter() - begin
        beside = f"published {run.reserved} GiB: {reserved / run.reserved - 1:+.1%}"
        ran = f", published {run.batch * run.sequence / run.tokens:.2f} s" if run.tokens else ""
        bound = f"no step is faster than {found.bound().step:.2f} s{ran}"
        print(f"{run.name}: {reserved:.2f} GiB reserved, {beside}; {bound}; estimated in {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
