"""What a rank has of parameters that are split between ranks, as a trace of it says."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

from torchprof.trace.shapes import Shape
from torchprof.trace.trace import Trace

__all__ = ["NOT_SHARDED", "ShardedTensor", "mesh_text", "placements_text", "shards_of"]


class ShardedTensor(NamedTuple):
    """A DTensor, as one rank has it.

    Attributes:
        shape, numel, bytes: of the part that this rank has.
        whole_bytes: bytes of the tensor as a whole, each element once.
        placements: how it is split or copied along each dimension of the mesh, as in ``Shard(0)``.
        mesh: the name (empty where it has none) and the number of ranks of each dimension of the mesh.
    """

    shape: Shape
    numel: int
    bytes: int
    whole_bytes: int
    placements: tuple[str, ...]
    mesh: tuple[tuple[str, int], ...]


NOT_SHARDED: Final[Mapping[str, ShardedTensor]] = MappingProxyType({})
"""The shards of a module that has none."""


def shards_of(trace: Trace) -> dict[str, dict[str, ShardedTensor]]:
    """By path of the module, and name of the parameter or buffer."""
    return {
        path: {
            name: ShardedTensor(
                tuple(of["shape"]),
                of["numel"],
                of["bytes"],
                of["whole_bytes"],
                tuple(of["placements"]),
                tuple((dimension, size) for dimension, size in of["mesh"]),
            )
            for name, of in tensors.items()
        }
        for path, tensors in trace.facts.get("sharded_parameters", {}).items()
    }


def placements_text(tensor: ShardedTensor) -> str:
    """As in ``Shard(0)``, or ``dp Shard(0), tp Replicate()`` where the mesh has several dimensions."""
    if len(tensor.placements) == 1:
        return tensor.placements[0]
    pairs = zip(tensor.mesh, tensor.placements, strict=False)
    return ", ".join(f"{name} {placement}".strip() for (name, _), placement in pairs)


def mesh_text(mesh: tuple[tuple[str, int], ...]) -> str:
    """As in ``dp=2 x tp=4``, or ``2 x 4`` where dimensions have no names."""
    return " x ".join(f"{name}={size}" if name else str(size) for name, size in mesh)
