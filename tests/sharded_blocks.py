"""A network of equal blocks without biases, of which what a rank has is easily counted; and it, sharded by FSDP2."""

from __future__ import annotations

from typing import Any, Final

from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

__all__ = ["LAYERS", "of_blocks", "sharded_blocks"]

LAYERS: Final = 3


def of_blocks(width: int) -> nn.Sequential:
    """Blocks from a width to its fourfold and back."""
    blocks = [
        nn.Sequential(nn.Linear(width, 4 * width, bias=False), nn.ReLU(), nn.Linear(4 * width, width, bias=False))
        for _ in range(LAYERS)
    ]
    return nn.Sequential(*blocks)


def sharded_blocks(width: int, shape: tuple[int, ...], device: str, **options: Any) -> nn.Module:
    """The same, each block gathered by itself. ``options`` are those of ``fully_shard``."""
    mesh = init_device_mesh(device, shape, mesh_dim_names=("replicate", "shard")[-len(shape) :])
    model = of_blocks(width)
    for block in model:
        fully_shard(block, mesh=mesh, **options)
    fully_shard(model, mesh=mesh, **options)
    return model
