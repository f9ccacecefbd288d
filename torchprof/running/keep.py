"""Writes what was recorded: where it was to go or, if that is gone, full or not ours, where it can."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import NamedTuple

from torchprof.trace.trace import Trace

__all__ = ["Kept", "keep"]


class Kept(NamedTuple):
    """Where it is.

    Attributes:
        file: absolute path.
        why: it is not where it was to go; empty where it is.
    """

    file: str
    why: str


def keep(trace: Trace, file: str) -> Kept:
    """Write a trace to a file, or to one of its name in the working directory, or in the folder for temporary files.

    A program may have run for days until then, and what cannot be written is lost. No file that is there is replaced but the
    one that was named.

    Raises:
        OSError: it cannot be written in any of these places.
    """
    try:
        trace.save(file)
        return Kept(file, "")
    except OSError as error:
        why = error.strerror or type(error).__name__
        for place in _other_places(file):
            try:
                trace.save(place)
            except OSError:
                continue
            return Kept(place, f"{file}: {why}")
        raise OSError(error.errno, f"{why}; nor can it be written anywhere else that was tried", file) from None


def _other_places(file: str) -> Iterator[str]:
    """Names in other folders that no file has yet."""
    for folder in (os.getcwd, tempfile.gettempdir):
        try:
            path = Path(folder()) / os.path.basename(file)
        except OSError:  # the working directory was deleted, or there is no folder for temporary files
            continue
        numbered = (path.with_stem(f"{path.stem}-{number}") for number in count(2))
        yield str(path if not path.exists() else next(each for each in numbered if not each.exists()))
