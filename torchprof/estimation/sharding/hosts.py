"""Which ranks are on the same host, where nobody says: so many of them, in order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Final

__all__ = ["MOST_RANKS", "PER_HOST", "hosts_of", "ranks_of_a_host"]

PER_HOST: Final = 8
"""Ranks of one host: ``LOCAL_WORLD_SIZE``. Most machines with GPUs have so many."""

MOST_RANKS: Final = 2**20
"""Of a world: more than anybody has. PyTorch lists all ranks of a process group, again and again, which takes seconds then."""


def ranks_of_a_host(world_size: int) -> int:
    """How many ranks of a world are on the host of each: one GPU for each."""
    return min(world_size, PER_HOST)


def hosts_of(ranks: Iterable[int]) -> tuple[int, int]:
    """On how many hosts these ranks are, and how many of them are on the one that has most.

    Example:
        >>> hosts_of(range(8)), hosts_of(range(0, 64, 8)), hosts_of(range(16))
        ((1, 8), (8, 1), (2, 8))
    """
    on = Counter(rank // PER_HOST for rank in ranks)
    return len(on), max(on.values())
