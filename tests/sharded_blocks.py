"""A network of equal blocks without biases, of which what a rank has is easily counted; and it, sharded by FSDP2. And a block
of attention."""

from __future__ import annotations

from typing import Any, Final

from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

__all__ = ["LAYERS", "Block", "of_blocks", "sharded_blocks"]

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


class Block(nn.Module):
    """A post-norm block of attention and two linear layers, as BERT has them."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(128, 128) for _ in range(4))
        self.norm1, self.norm2 = nn.LayerNorm(128), nn.LayerNorm(128)
        self.up, self.down = nn.Linear(128, 512), nn.Linear(512, 128)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (part(x).unflatten(-1, (-1, 32)).transpose(1, 2) for part in (self.query, self.key, self.value))
        found = nn.functional.scaled_dot_product_attention(query, key, value)
        x = self.norm1(x + self.out(found.transpose(1, 2).flatten(2)))
        done: Tensor = self.norm2(x + self.down(nn.functional.gelu(self.up(x))))
        return done
