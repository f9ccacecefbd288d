"""Lines and functions by file and function.

A line that stands elsewhere in its function than before is the one with the same text, in the order of the text; where no text
is known, the one as far from the beginning of the function. A file in another folder is the same where it is the only one of
its name.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Hashable
from difflib import SequenceMatcher

from torchprof.comparison.alignment.named import align_named
from torchprof.comparison.alignment.pair import Pair
from torchprof.comparison.side import Row

__all__ = ["align_lines"]

Groups = dict[Hashable, list[Row]]


def align_lines(rows_a: list[Row], rows_b: list[Row], *, functions: bool) -> list[Pair]:
    """Which lines, or functions, are which."""
    files = _same_files(rows_a, rows_b)
    groups_a, groups_b = _by_function(rows_a, files), _by_function(rows_b, {})
    pairs: list[Pair] = []
    for key in dict.fromkeys([*groups_b, *groups_a]):
        mine, others = groups_a.get(key, []), groups_b.get(key, [])
        pairs += align_named(mine, others, lambda row: ()) if functions else _in_function(mine, others)
    return pairs


def _same_files(rows_a: list[Row], rows_b: list[Row]) -> dict[str, str]:
    """The file of B that each file of A is, where it has another name."""
    files_a, files_b = (
        {str(row.record["file"]) for row in rows if row.record["file"] is not None} for rows in (rows_a, rows_b)
    )
    left_a, left_b = sorted(files_a - files_b), sorted(files_b - files_a)
    names_a, names_b = (Counter(map(_name, files)) for files in (left_a, left_b))
    by_name = {_name(file): file for file in left_b}
    return {file: by_name[_name(file)] for file in left_a if names_a[_name(file)] == names_b[_name(file)] == 1}


def _name(file: str) -> str:
    return os.path.basename(file.replace("\\", "/"))


def _by_function(rows: list[Row], files: dict[str, str]) -> Groups:
    groups: Groups = {}
    for row in rows:
        file = row.record["file"]
        groups.setdefault((files.get(file, file), row.record["function"]), []).append(row)
    return groups


def _in_function(rows_a: list[Row], rows_b: list[Row]) -> list[Pair]:
    """The lines of one function. What is of no line of it is by itself."""
    lines_a, lines_b = ([row for row in rows if row.record["line"] is not None] for rows in (rows_a, rows_b))
    others_a, others_b = ([row for row in rows if row.record["line"] is None] for rows in (rows_a, rows_b))
    pairs = align_named(others_a, others_b, lambda row: ())
    lines_a.sort(key=lambda row: row.record["line"])
    lines_b.sort(key=lambda row: row.record["line"])
    known = all(row.record.get("source") for row in (*lines_a, *lines_b))
    texts_a, texts_b = ([row.record["source"] if known else _offset(row) for row in rows] for rows in (lines_a, lines_b))
    taken_a: set[int] = set()
    taken_b: set[int] = set()
    for block in SequenceMatcher(None, texts_a, texts_b, autojunk=False).get_matching_blocks():
        for at in range(block.size):
            a, b = lines_a[block.a + at], lines_b[block.b + at]
            pairs.append(Pair(a, b, "same" if a.record["line"] == b.record["line"] else "moved"))
            taken_a.add(block.a + at)
            taken_b.add(block.b + at)
    pairs += [Pair(row, None, "removed") for at, row in enumerate(lines_a) if at not in taken_a]
    return pairs + [Pair(None, row, "added") for at, row in enumerate(lines_b) if at not in taken_b]


def _offset(row: Row) -> int:
    first = row.record["first_line"]
    return int(row.record["line"]) - int(first if first is not None else 0)
