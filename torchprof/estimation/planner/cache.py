"""What was found of configurations, kept in the user's cache directory, for the next time that the same is asked."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from torchprof.estimation.planner.found import Found
from torchprof.paths import written
from torchprof.record.cache_folder import cache_folder

__all__ = ["Cache"]

FOLDER: Final = "plans"
MOST: Final = 2000
"""Files that are kept: the oldest go first."""


class Cache:
    """Keeps what was found, one file each, by everything that it depends on.

    Args:
        key: of everything that is the same for all choices; None: nothing is kept, or looked up.
    """

    def __init__(self, key: str | None) -> None:
        self._key = key

    def get(self, choice: str) -> Found | None:
        """What was found of this choice; None where nothing was, or the file is damaged."""
        if self._key is None:
            return None
        try:
            return Found.of(json.loads(self._file(choice).read_text()))
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            return None

    def put(self, choice: str, found: Found) -> None:
        """Keep what was found, unless it raised. What cannot be written is found again next time."""
        if self._key is None or found.error:
            return
        file = self._file(choice)
        with suppress(OSError):
            file.parent.mkdir(parents=True, exist_ok=True)
            with written(file) as opened:
                opened.write(json.dumps(found.to_dict()).encode())
            _forget(file.parent)

    def _file(self, choice: str) -> Path:
        name = hashlib.sha256(f"{self._key}\n{choice}".encode()).hexdigest()[:32]
        return cache_folder() / FOLDER / f"{name}.json"


def _forget(folder: Path) -> None:
    """Remove the oldest files where there are too many."""
    files = list(folder.glob("*.json"))
    if len(files) > MOST:
        age: Callable[[Path], Any] = lambda file: file.stat().st_mtime  # noqa: E731
        for file in sorted(files, key=age)[: len(files) - MOST]:
            file.unlink(missing_ok=True)
