"""Blocks whose attention goes around a ring of ranks, each of which has a part of the sequence: context parallelism.

PyTorch's ``context_parallel`` has kernels of CUDA only. Here its own ring is given that of the CPU, so that real processes can
run it.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from sharded_blocks import Block
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.nn.functional import gelu, scaled_dot_product_attention

try:
    from torch.distributed.tensor.experimental._context_parallel import _attention, _load_balancer
except ImportError:  # it was in another place before PyTorch 2.10
    HAS_RING = False
else:
    HAS_RING = True

__all__ = ["HAS_RING", "LENGTH", "RingEncoder"]

LENGTH: Final = 256
"""Of the whole sequence."""

aten = torch.ops.aten
NO_DROPOUT: Final = {"dropout_p": 0.0, "scale": None}


class Ring(torch.autograd.Function):
    """Causal attention of a rank's part of the sequence on all of it."""

    @staticmethod
    def forward(context: Any, query: Tensor, key: Tensor, value: Tensor, group: Any) -> Tensor:
        kernel = aten._scaled_dot_product_flash_attention_for_cpu
        ring = _attention._templated_ring_attention
        out, sums = ring(group, 2, kernel, query, key, value, is_causal=True, **NO_DROPOUT)[:2]
        context.save_for_backward(query, key, value, out, sums)
        context.group = group
        return out  # type: ignore[no-any-return]

    @staticmethod
    def backward(context: Any, grad: Tensor) -> Any:
        query, key, value, out, sums = context.saved_tensors
        kernel = aten._scaled_dot_product_flash_attention_for_cpu_backward.default
        ring = _attention._templated_ring_attention_backward
        grads = ring(context.group, 2, kernel, grad, "grad_out", query, key, value, out, sums, is_causal=True, **NO_DROPOUT)
        return *grads[:3], None


class RingBlock(Block):
    """A block whose attention is causal, and goes around a ring where there is one."""

    group: Any = None

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (part(x).unflatten(-1, (-1, 32)).transpose(1, 2) for part in (self.query, self.key, self.value))
        if self.group is None:
            found = scaled_dot_product_attention(query, key, value, is_causal=True)
        else:
            found = Ring.apply(query, key, value, self.group)
        x = self.norm1(x + self.out(found.transpose(1, 2).flatten(2)))
        done: Tensor = self.norm2(x + self.down(gelu(self.up(x))))
        return done


class RingEncoder(nn.Module):
    """Three such blocks over an embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(1000, 128), nn.Linear(128, 1000)
        self.blocks = nn.ModuleList(RingBlock() for _ in range(3))
        self.mesh: DeviceMesh | None = None

    def split(self, mesh: DeviceMesh, rotate: str = "allgather", balanced: bool = True) -> None:
        """Split the sequence between the ranks of a mesh."""
        self.mesh, self.rotate, self.balanced = mesh, rotate, balanced
        for block in self.blocks:
            block.group = mesh.get_group()

    def forward(self, words: Tensor) -> Tensor:
        if self.mesh is not None:
            _attention.set_rotate_method(self.rotate)
            balancer = _load_balancer._HeadTailLoadBalancer(LENGTH, self.mesh.size(), words.device) if self.balanced else None
            (words,) = _attention._context_parallel_shard(self.mesh, [words], [1], balancer)
        x = self.words(words)
        for block in self.blocks:
            x = block(x)
        scores: Tensor = self.head(x)
        return scores
