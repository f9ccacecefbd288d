"""Estimates of one rank beside what was published of real GPUs: ``python benchmarks/published_runs.py [GPUS ...]``.

The figures are those of torchtitan's tables of December 2024, of its Llama 3.1 8B on H100s with 95 GiB: ``max_reserved`` per
GPU at sequence 8,192 and local batch 2, FSDP2 with parameters in bfloat16 and reductions in float32, every second product
saved, AdamW with foreach, clipping; eager, with ``torch.compile`` of each block, and where that multiplies and gathers in
float8 (``pip install torchao``, without which these are left out); and the tokens per second of the eager ones, beside the
bound of the step. The model is written after its description; nothing is downloaded.
"""

from __future__ import annotations

import importlib.util
import sys
import time
from collections import defaultdict
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
SEQUENCE, BATCH = 8192, 2
KINDS: Final = ("eager", "compiled", "compiled, float8")
PUBLISHED: Final = {
    (8, "eager"): 82.4,
    (8, "compiled"): 77.0,
    (8, "compiled, float8"): 76.8,
    (128, "eager"): 67.0,
    (128, "compiled"): 62.0,
    (128, "compiled, float8"): 61.8,
}
"""GiB reserved per GPU, by the number of them and the kind of run."""
TOKENS: Final = {8: 5762, 128: 5605}
"""Tokens per second and GPU of those that are not compiled, by the number of GPUs."""
aten = torch.ops.aten
SAVED: Final = {
    aten.mm.default,
    aten._scaled_dot_product_efficient_attention.default,
    aten._scaled_dot_product_flash_attention.default,
    aten._scaled_dot_product_cudnn_attention.default,
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
        self.attention_norm, self.feed_forward_norm = nn.RMSNorm(WIDTH, eps=1e-5), nn.RMSNorm(WIDTH, eps=1e-5)

    def forward(self, x: Tensor, frequencies: Tensor) -> Any:
        x = x + self.attention(self.attention_norm(x), frequencies)
        return x + self.feed_forward(self.feed_forward_norm(x))


class Llama(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, WIDTH)
        self.layers = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm = nn.RMSNorm(WIDTH, eps=1e-5)
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        self.register_buffer("frequencies", torch.empty(SEQUENCE, WIDTH // HEADS // 2, dtype=torch.complex64))

    def forward(self, tokens: Tensor) -> Any:
        x = self.tokens(tokens)
        for layer in self.layers:
            x = layer(x, self.frequencies)
        return self.head(self.norm(x))


def every_second_product() -> Any:
    """The contexts of selective checkpointing."""
    products: dict[bool, int] = defaultdict(int)

    def policy(context: Any, op: Any, *args: Any, **options: Any) -> CheckpointPolicy:
        if op is aten.mm.default:
            products[context.is_recompute] += 1
            if products[context.is_recompute] % 2 == 0:
                return CheckpointPolicy.PREFER_RECOMPUTE
        return CheckpointPolicy.MUST_SAVE if op in SAVED else CheckpointPolicy.PREFER_RECOMPUTE

    return create_selective_checkpoint_contexts(policy)  # type: ignore[no-untyped-call]


def in_float8(model: nn.Module) -> nn.Module:
    """All linear layers but the last multiply in float8, and their weights are gathered in it."""
    from torchao.float8 import Float8LinearConfig, convert_to_float8_training

    config = Float8LinearConfig(enable_fsdp_float8_all_gather=True)
    converted: nn.Module = convert_to_float8_training(
        model, config=config, module_filter_fn=lambda module, path: path != "head"
    )
    return converted


def build(gpus: int, kind: str) -> nn.Module:
    model = Llama()
    if kind.endswith("float8"):
        in_float8(model)
    mesh = init_device_mesh("cuda", (gpus,))
    half = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    for number, layer in enumerate(model.layers):
        block = checkpoint_wrapper(layer, context_fn=every_second_product, preserve_rng_state=False)
        model.layers[number] = block if kind == "eager" else torch.compile(block, fullgraph=True)
        fully_shard(model.layers[number], mesh=mesh, mp_policy=half, reshard_after_forward=number < LAYERS - 1)
    fully_shard(model, mesh=mesh, mp_policy=half, reshard_after_forward=True)
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
    tokens = torch.empty(BATCH, SEQUENCE, dtype=torch.long, device="meta")
    asked = [(int(gpus), kind) for gpus in sys.argv[1:] for kind in KINDS]
    for gpus, kind in asked or PUBLISHED:
        if kind.endswith("float8") and not importlib.util.find_spec("torchao"):
            print(f"{gpus} GPUs, {kind}: left out, as torchao is not installed")
            continue
        begin = time.perf_counter()
        found = torchprof.estimate(
            partial(build, gpus, kind),
            (tokens, torch.empty_like(tokens)),
            optimizer=partial(torch.optim.AdamW, foreach=True),
            step=step,
            steps=3,
            capacity="H100-80GB",
            world_size=gpus,
        )
        reserved, seconds = found.max_reserved / 2**30, time.perf_counter() - begin
        known = PUBLISHED.get((gpus, kind))
        beside = f", published {known:.1f} GiB: {reserved / known - 1:+.1%}" if known is not None else ""
        ran = f", published {BATCH * SEQUENCE / TOKENS[gpus]:.2f} s" if gpus in TOKENS and kind == "eager" else ""
        bound = f"no step is faster than {found.bound().step:.2f} s{ran}"
        print(f"{gpus} GPUs, {kind}: {reserved:.2f} GiB reserved{beside}; {bound}; estimated in {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
