"""The file of a rank."""

from __future__ import annotations

from pathlib import PurePath

from torchprof.trace.rank import Rank

__all__ = ["file_of", "stem_of_rank"]


def file_of(path: str, rank: Rank | None, *, process: int | None = None) -> str:
    """The file of a rank: ``train.torchprof`` is ``train.rank3.torchprof``.

    Args:
        process: which of the processes that the program spawned it is, where it is no rank: ``train.process3.torchprof``.
    """
    if rank is None and process is None:
        return path
    name = PurePath(path)
    stem = f"{name.stem}.process{process}" if rank is None else stem_of_rank(name.stem, rank)
    return str(name.with_name(f"{stem}{name.suffix}"))


def stem_of_rank(stem: str, rank: Rank | None) -> str:
    """How the name of the file of a rank begins: ``train`` is ``train.rank3``."""
    return stem if rank is None else f"{stem}.rank{rank.number}"
