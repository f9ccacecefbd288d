"""Folders in which the files of ranks are: what is in them, and what is said where one file is needed."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Final

from torchprof.errors import TraceFileError
from torchprof.paths import AnyPath, text_of

__all__ = ["ENDINGS", "SNAPSHOTS", "files_in", "refuse_folder"]

ENDINGS: Final = (".torchprof", ".json", ".json.gz")
"""Of the names of the files that are read of a folder."""
SNAPSHOTS: Final = (".pickle", ".pkl", ".pickle.gz", ".pkl.gz")
"""Of the names that memory snapshots usually have."""


def refuse_folder(path: AnyPath, endings: Sequence[str] = ENDINGS) -> None:
    """Raise TraceFileError where this is a folder, and one file is needed: it names one.

    Args:
        endings: of the names of files of which one would do.
    """
    folder = text_of(path)
    if not os.path.isdir(folder.replace("\0", "")):
        return
    names = _names_in(folder, endings)
    if not names and _names_in(folder, ENDINGS):
        raise TraceFileError(f"{folder}: is a folder of traces, and no memory snapshot of CUDA: torchprof.load(path) reads it")
    if not names:
        raise TraceFileError(f"{folder}: is a folder, and one file is needed: no name in it ends in {', '.join(endings)}")
    first = os.path.join(folder, names[0])
    if len(names) == 1:
        raise TraceFileError(f"{folder}: is a folder, and one file is needed: name it, {first}")
    of_ranks = "; torchprof.load(path) reads those of all ranks" if first.endswith(ENDINGS) else ""
    raise TraceFileError(f"{folder}: is a folder of {len(names):,} files: name that of one rank, such as {first}{of_ranks}")


def _names_in(folder: str, endings: Sequence[str]) -> list[str]:
    names = [name for name in os.listdir(folder) if name.endswith(tuple(endings)) and not name.startswith(".")]
    return sorted(names, key=_by_number)


def files_in(folder: str) -> list[str]:
    """The paths of the traces in a folder, in the order of their numbers; raises TraceFileError where there are none."""
    names = _names_in(folder, ENDINGS)
    if not names:
        raise TraceFileError(f"{folder}: a folder without traces: no name in it ends in {', '.join(ENDINGS)}")
    return [os.path.join(folder, name) for name in names]


def _by_number(name: str) -> list[tuple[int, str]]:
    """For the order in which people count: ``rank2`` comes before ``rank10``."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]
