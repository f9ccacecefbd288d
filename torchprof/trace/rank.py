"""Which rank of a distributed program a trace is of, as its facts say."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from torchprof.paths import AnyPath, text_of

__all__ = ["DIGITS", "Rank", "place_of", "rank_of"]

DIGITS: Final = 4
"""Of a rank in the name of its file, at least: files are in order then."""


@dataclass(frozen=True, slots=True)
class Rank:
    """One process of a distributed program.

    Attributes:
        number: counted from 0.
        size: how many there are; None where that is not known.
        local: its number on its host; None where that is not known.
    """

    number: int
    size: int | None
    local: int | None = None


def rank_of(facts: Mapping[str, Any]) -> Rank | None:
    """The rank that a trace with these facts is of; None where it is of a program of one process."""
    said = facts
    if "rank" not in facts and isinstance(of_profiler := facts.get("distributed"), dict):
        said = of_profiler  # a file of torch.profiler
    number, size, local = (_count(said.get(name)) for name in ("rank", "world_size", "local_rank"))
    return Rank(number, size, local) if number is not None else None


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31 else None


def place_of(path: AnyPath, facts: Mapping[str, Any]) -> str:
    """Where a trace with these facts is saved: in a folder, each rank has a file. The folder is made where there is none.

    Raises:
        ArgumentError: the path is not a path.
        OSError: the folder cannot be made.
    """
    text = text_of(path)
    if not text.endswith((os.sep, os.altsep or os.sep)) and not os.path.isdir(text):
        return text
    os.makedirs(text, exist_ok=True)
    rank = rank_of(facts) or Rank(0, 1)
    digits = max(DIGITS, len(str((rank.size or 1) - 1)))
    of_size = f"-of-{rank.size:0{digits}}" if rank.size is not None else ""
    return os.path.join(text, f"rank-{rank.number:0{digits}}{of_size}.torchprof")
