"""Rows by what they are called: ops, kernels, categories."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable

from torchprof.comparison.alignment.pair import How, Pair
from torchprof.comparison.side import Row

__all__ = ["align_kernels", "align_named", "align_places"]

Key = Callable[[Row], Hashable]


def align_named(rows_a: list[Row], rows_b: list[Row], key: Key, like: Key | None = None, how: How = "renamed") -> list[Pair]:
    """Match rows with the same key, of several the first with the first.

    Args:
        like: of what is left, rows belong together that alone on each side have this in common.
        how: what is said of these.
    """
    free: dict[Hashable, list[Row]] = {}
    for row in rows_a:
        free.setdefault(key(row), []).append(row)
    pairs, left_b = [], []
    for row in rows_b:
        if mine := free.get(key(row)):
            pairs.append(Pair(mine.pop(0), row, "same"))
        else:
            left_b.append(row)
    left_a = [row for rows in free.values() for row in rows]
    if like is not None:
        counts_a, counts_b = (Counter(map(like, rows)) for rows in (left_a, left_b))
        alone = {like(row): row for row in left_a if counts_a[like(row)] == counts_b[like(row)] == 1}
        pairs += [Pair(alone[like(row)], row, how) for row in left_b if like(row) in alone]
        left_a = [row for row in left_a if like(row) not in alone]
        left_b = [row for row in left_b if like(row) not in alone]
    pairs += [Pair(None, row, "added") for row in left_b]
    return pairs + [Pair(row, None, "removed") for row in left_a]


def align_kernels(rows_a: list[Row], rows_b: list[Row]) -> list[Pair]:
    """Kernels by their whole C++ names; of what is left, those that alone have a short name in common."""

    def key(row: Row) -> Hashable:
        return tuple(row.record[name] for name in ("full_name", "kind", "direction", "graph"))

    return align_named(rows_a, rows_b, key, lambda row: (row.record["name"], row.record["kind"], row.record["graph"]))


def align_places(rows_a: list[Row], rows_b: list[Row]) -> list[Pair]:
    """What memory was made for, by line and category; of what is left, what alone is of a function and category."""

    def function(row: Row) -> Hashable:
        place, _, name = row.record["name"].partition(" ")
        return (place.rpartition(":")[0], name, row.record.get("category"), row.record.get("module"))

    def line(row: Row) -> Hashable:
        return tuple(row.record.get(name) for name in ("name", "category", "module"))

    return align_named(rows_a, rows_b, line, function, "moved")
