"""The file of a rank."""

from __future__ import annotations

from pathlib import PurePath

from torchprof.trace.rank import Rank

__all__ = ["file_of", "stem_of_rank"]


def file_of(path: str, rank: Rank | None) -> str:
    """The file of a rank: ``train.torchprof`` is ``train.rank3.torchprof``."""
    if rank is None:
        return path
    name = PurePath(path)
    return str(name.with_name(f"{stem_of_rank(name.stem, rank)}{name.suffix}"))


def stem_of_rank(stem: str, rank: Rank | None) -> str:
    """How the name of the file of a rank begins: ``train`` is ``train.rank3``."""
    return stem if rank is None else f"{stem}.rank{rank.number}"
