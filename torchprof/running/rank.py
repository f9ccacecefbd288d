"""The file of a rank."""

from __future__ import annotations

from pathlib import PurePath

from torchprof.trace.rank import Rank

__all__ = ["file_of"]


def file_of(path: str, rank: Rank | None) -> str:
    """The file of a rank: ``train.torchprof`` is ``train.rank3.torchprof``."""
    if rank is None:
        return path
    name = PurePath(path)
    return str(name.with_name(f"{name.stem}.rank{rank.number}{name.suffix}"))
