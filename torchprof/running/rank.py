"""Which rank of several processes this one is, as those that start ranks tell them."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import PurePath
from typing import Final

__all__ = ["Rank", "current_rank", "file_of", "own_rank"]

VARIABLES: Final = (
    ("RANK", "WORLD_SIZE"),  # torchrun, accelerate, deepspeed
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("PMI_RANK", "PMI_SIZE"),
    ("SLURM_PROCID", "SLURM_NTASKS"),
)


@dataclass(frozen=True, slots=True)
class Rank:
    """One of ``size`` processes, counted from 0."""

    number: int
    size: int


def own_rank() -> Rank | None:
    """Of this process, from its environment; None where it is no rank, or the only one."""
    for number, size in VARIABLES:
        texts = os.environ.get(number, ""), os.environ.get(size, "")
        if all(text.isdecimal() for text in texts):
            rank = Rank(*map(int, texts))
            return rank if rank.size > 1 else None
    return None


def current_rank() -> Rank | None:
    """Of this process: what its process group of ``torch.distributed`` says, if there is one, or else its environment."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        size = int(distributed.get_world_size())
        return Rank(int(distributed.get_rank()), size) if size > 1 else None
    return own_rank()


def file_of(path: str, rank: Rank | None) -> str:
    """The file of a rank: ``train.torchprof`` is ``train.rank3.torchprof``."""
    if rank is None:
        return path
    name = PurePath(path)
    return str(name.with_name(f"{name.stem}.rank{rank.number}{name.suffix}"))
