"""Short names of files, as much of the end of a path as tells it from the others, and of places in them."""

from __future__ import annotations

from collections import Counter

__all__ = ["place_text", "short_files"]


def short_files(files: set[str]) -> dict[str, str]:
    """Of every file as much of the end of its path as tells it from the others."""
    parts = {file: [part for part in file.replace("\\", "/").split("/") if part] or [file] for file in files}
    found: dict[str, str] = {}
    left, size = sorted(files), 1
    while left:
        ends = {file: "/".join(parts[file][-size:]) for file in left}
        same = Counter(ends.values())
        for file in left:
            if same[ends[file]] == 1 or size >= len(parts[file]):
                found[file] = ends[file]
        left = [file for file in left if file not in found]
        size += 1
    return found


def place_text(files: dict[str, str], file: str | None, line: int | None) -> str:
    """``net.py:12``, with the short name of a file: without what is not known."""
    if file is None:
        return ""
    return files[file] if line is None else f"{files[file]}:{line}"
