"""Memory-efficient attention: its random seeds are on the host, and its backward works in a buffer.

Blocks of threads add up the gradient of the query in tiles in memory, each of which has a lock; where heads are too wide for
registers in 16 bits, gradients of keys and values too.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import torch

from torchprof import _native
from torchprof.estimation.rules.registry import Kind, Workspaces, rule
from torchprof.estimation.target import Target

HALF: Final = (torch.float16, torch.bfloat16)
FLOAT32: Final = 4
LOCK: Final = 4
"""Numbers of 4 bytes in front of a tile: a lock, a counter, and two that align it."""
ALIGNED_TO: Final = 4
MOST_SHARING: Final = 200
"""Blocks among which keys are split where gradients of keys are in memory."""
AMPERE: Final = (8, 0)
SMALL: Final = ((8, 6), (8, 7), (8, 9))
"""Compute capabilities from 8.0 on that have too little shared memory for the larger tiles."""


class Tile(NamedTuple):
    """What a kernel is built for: queries and keys of a tile, and the widest head."""

    queries: int
    keys: int
    widest: int


SMALL_TILES: Final = (Tile(64, 64, 32), Tile(64, 64, 64), Tile(64, 64, 128), Tile(64, 64, 65536))
OF_FLOAT32: Final = (Tile(64, 64, 32), Tile(64, 64, 64), Tile(128, 64, 128), Tile(128, 64, 65536))
OF_HALF: Final = (Tile(64, 64, 32), Tile(64, 64, 64), Tile(128, 64, 96), Tile(128, 128, 128), Tile(128, 64, 65536))


@rule(
    Kind.RESULT,
    "aten::_scaled_dot_product_efficient_attention",
    on="cuda",
    when="outside of CUDA graphs: what seeds the dropout is on the host, where the fake kernel has it on the GPU",
    source="_efficient_attention_forward in aten/src/ATen/native/transformers/cuda/attention.cu; histories of an H200",
)
def seeds_on_the_host(op: Any, args: Any, kwargs: Any, returned: Any) -> Any:
    seeds = [seed.new_empty(()) for seed in returned[2:]]  # single numbers, as DTensor takes them to be
    for seed in seeds:
        _native.resize_on_meta(seed.untyped_storage(), 0)  # what is not counted has no bytes
    return (*returned[:2], *seeds)


@rule(
    Kind.WORKSPACE,
    "aten::_scaled_dot_product_efficient_attention_backward",
    on="cuda",
    when="always: sums of output times gradient of each row, and the buffer; wide heads in tiles that the GPU has room for",
    source="_efficient_attention_backward in aten/src/ATen/native/transformers/cuda/attention_backward.cu; workspace_size in "
    "mem_eff_attention/kernel_backward.h beside it; histories of an H200: 6,297,600 bytes for 48 heads of 64 and 512 words",
)
class efficient_attention_gradients(Workspaces):
    def bytes(self, op: Any, args: Any, kwargs: Any, results: list[torch.Tensor]) -> tuple[int, ...]:
        gradient, query, key, value = args[:4]
        batch, heads, queries, head = query.shape
        rows = batch * heads * queries * FLOAT32
        # Output and its gradient are multiplied in float32, to which they are converted.
        multiplied = gradient.numel() * FLOAT32 * (3 if query.dtype in HALF else 1)
        buffer = (
            batch
            * heads
            * buffer_of_a_head(queries, key.shape[2], head, value.shape[3], batch * heads, query.dtype, self.target)
        )
        return max((multiplied, rows, rows), (rows, buffer), key=sum)


def buffer_of_a_head(
    queries: int, keys: int, head: int, value_head: int, heads: int, dtype: torch.dtype, target: Target
) -> int:
    """Bytes of the buffer for one of so many heads in the batch.

    Example:
        >>> buffer_of_a_head(512, 512, 64, 64, 48, torch.float32, Target("cuda", "H200"))
        131200
    """
    is_half, widest = dtype in HALF, max(head, value_head)
    has_room = target.capability >= AMPERE and target.capability not in SMALL
    tiles = SMALL_TILES if not has_room else OF_HALF if is_half else OF_FLOAT32
    tile = next(tile for tile in tiles if widest <= tile.widest)
    numbers = -(-queries // tile.queries) * -(-head // tile.keys) * (LOCK + tile.queries * tile.keys)
    if is_half and tile.widest > tile.queries:
        splits = (
            1 if torch.are_deterministic_algorithms_enabled() else max(1, min(-(-keys // tile.keys), MOST_SHARING // heads))
        )
        numbers += splits * _rounded(keys, tile.keys) * sum(_rounded(size, tile.queries) for size in (head, value_head))
    return _rounded(numbers, ALIGNED_TO) * FLOAT32


def _rounded(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple
