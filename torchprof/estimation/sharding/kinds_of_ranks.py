"""Which ranks of a world differ: equal ones are estimated once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from math import prod
from typing import Any, Final

from torchprof.rendering.units import format_bytes
from torchprof.wording import counted, numbered

__all__ = ["FEW", "KindOfRank", "classes_of_ranks", "told_kinds"]

FEW: Final = 16
"""Ranks up to which each is built, to see which are equal."""

Signature = Any


@dataclass(frozen=True, slots=True)
class KindOfRank:
    """Ranks that hold shards of the same sizes.

    Attributes:
        rank: the first of them, which was estimated.
        count: how many there are.
        device_memory: bytes that each needs.
        stages: the stages of a pipeline that each has, by their numbers.
    """

    rank: int
    count: int
    device_memory: int
    stages: tuple[int, ...] = ()


def classes_of_ranks(
    world_size: int, signature: Callable[[int], Signature], mesh: Sequence[int] | None = None
) -> dict[int, int]:
    """The first rank of each class of equal ranks, and how many are in the class.

    Of a few ranks each is looked at. Of many, along each dimension of the mesh, the sizes of shards only ever fall: where both
    ends of a stretch are equal, so is what lies between; and what differs along several dimensions is looked at together.

    Args:
        world_size: how many ranks there are.
        signature: of a rank, something that is equal for equal ranks. It is asked for few.
        mesh: the sizes of the dimensions along which the ranks are laid out, the last the fastest; None: one of all ranks.

    Example:
        >>> classes_of_ranks(1000, lambda rank: rank < 999)
        {0: 999, 999: 1}
    """
    known: dict[int, Signature] = {}

    def of(rank: int) -> Signature:
        if rank not in known:
            known[rank] = signature(rank)
        return known[rank]

    if mesh is None or prod(mesh) != world_size:
        mesh = (world_size,)
    if world_size <= FEW:
        mesh_classes = [(rank, 1) for rank in range(world_size)]
    else:
        strides = [prod(mesh[dimension + 1 :]) for dimension in range(len(mesh))]
        stretches = [_stretches(size, partial(_along, of, stride)) for size, stride in zip(mesh, strides, strict=True)]
        mesh_classes = [
            (
                sum(first * stride for (first, _), stride in zip(places, strides, strict=True)),
                prod(count for _, count in places),
            )
            for places in product(*stretches)
        ]
    found: list[tuple[Signature, int]] = []
    counts: dict[int, int] = {}
    for rank, count in sorted(mesh_classes):
        same = next((first for seen, first in found if seen == of(rank)), None)
        if same is None:
            found.append((of(rank), rank))
            same = rank
        counts[same] = counts.get(same, 0) + count
    return counts


def _along(of: Callable[[int], Signature], stride: int, place: int) -> Signature:
    return of(place * stride)


def _stretches(size: int, of: Callable[[int], Signature]) -> list[tuple[int, int]]:
    """The first place of each stretch of equal ones along a dimension, and how many are in it."""
    firsts = [0]
    while True:
        begin = firsts[-1]
        if of(begin) == of(size - 1):
            break
        low, high = begin, size - 1  # equal to the first one; different from it
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if of(middle) == of(begin) else (low, middle)
        firsts.append(high)
    return [(first, after - first) for first, after in zip(firsts, [*firsts[1:], size], strict=True)]


def told_kinds(kinds: Sequence[KindOfRank], rank: int | None, world_size: int | None) -> Iterator[str]:
    """Which ranks differ, in words, the one that needs most first."""
    if len(kinds) == 1:
        yield f"Of rank {rank} of {world_size}: all are equal"
        return
    told = [f"{_named(kind)}: {format_bytes(kind.device_memory)}" for kind in kinds]
    yield f"Of rank {rank} of {world_size}, which needs most: {'; '.join(told)}"


def _named(kind: KindOfRank) -> str:
    others = kind.count - 1
    stages = f" ({numbered(kind.stages, 'stage')})" if kind.stages else ""
    return f"rank {kind.rank}" + (f" and {counted(others, 'other', 'others')}" if others else "") + stages
