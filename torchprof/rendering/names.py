"""Names that are too long: cut in the middle, so that those that differ still do.

    encoder.layer.10.attention.self.query      encoder.layer.10.…self.query
    encoder.layer.11.attention.self.query      encoder.layer.11.…self.query

A cut that makes two names alike is made elsewhere: the parts in which they differ stay, then as much as there is room for at
both ends.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise, starmap
from typing import Final

from torchprof.rendering.cells import cells_of, joined, width_of

__all__ = ["cut", "cut_in_the_middle", "shortened"]

DOTS: Final = "…"
WINDOWS: Final = (12, 5, 1)
"""How much of a part in which names differ is kept: the most that there is room for."""

SHORTEST_CLASS: Final = 6
"""What is left of the class of a module, if it is shown."""
ROUNDS: Final = 4
"""Names that are told apart from some may become like others, which are then looked at together."""

Range = tuple[int, int]


def cut(text: str, size: int) -> str:
    """The text, if need be cut to ``size`` columns: ``name (Class)`` in the class or without it, others in the middle."""
    if width_of(text) <= size:
        return text
    name, _, kind = text.partition(" (")
    if kind.endswith(")"):
        room = size - width_of(name) - len(" ()")
        if room >= SHORTEST_CLASS:
            return f"{name} ({_visible(cells_of(kind[:-1]), room, [])})"
        if width_of(name) <= size:
            return name
        if width_of(kind) * 3 <= size:
            return f"{_visible(cells_of(name), size - len(' (') - width_of(kind), [])} ({kind}"
        text = name
    return _visible(cells_of(text), size, [])


def cut_in_the_middle(text: str, size: int) -> str:
    """The text, if need be cut to ``size`` columns."""
    return _visible(cells_of(text), size, []) if width_of(text) > size else text


def shortened(names: Sequence[str], size: int) -> list[str]:
    """The names, none of which takes more than ``size`` columns; names that differ stay different, if that is possible."""
    shown = {name: cut(name, size) for name in names}
    groups = {name: {name} for name in shown}
    for _ in range(ROUNDS):
        alike: dict[str, list[str]] = defaultdict(list)
        for name, short in shown.items():
            alike[short].append(name)
        clashes = [clash for clash in alike.values() if len(clash) > 1]
        if not clashes:
            break
        for clash in clashes:  # what was told apart before stays apart
            group = set().union(*map(groups.__getitem__, clash))
            groups.update(dict.fromkeys(group, group))
            shown.update(_told_apart(sorted(group), size))
    return [shown[name] for name in names]


def _told_apart(names: list[str], size: int) -> dict[str, str]:
    """Sorted names, cut where they are alike: without the class, if all have the same."""
    kinds = {name.partition(" (")[2] for name in names}
    is_class = len(kinds) == 1 and next(iter(kinds)).endswith(")")
    cells = [cells_of(name.partition(" (")[0] if is_class else name) for name in names]
    shown: dict[str, str] = {}
    taken: dict[str, int] = defaultdict(int)
    for name, own, positions in zip(names, cells, _branches(cells), strict=True):
        short = next(filter(None, (_visible(own, size, _around(own, positions, most)) for most in WINDOWS)), "")
        short = short or _visible(own, size, [])
        taken[short] += 1
        if taken[short] > 1 and len(number := f"~{taken[short]}") < size:  # there is no room for what tells them apart
            short = _visible(own, size - len(number), []) + number
        shown[name] = short
    return shown


def _branches(names: list[Sequence[str]]) -> list[set[int]]:
    """Of every one of sorted names, the positions at which it differs from others that are the same up to there."""
    common = list(starmap(_shared, pairwise(names)))
    found: list[set[int]] = [set() for _ in names]
    for order in (range(len(names)), range(len(names) - 1, -1, -1)):
        smallest: list[int] = []  # growing: what the name shares with each of those before it
        before = -1
        for at in order:
            if before >= 0:
                shared = common[min(at, before)]
                while smallest and smallest[-1] > shared:
                    smallest.pop()
                if not smallest or smallest[-1] < shared:
                    smallest.append(shared)
            found[at].update(smallest)
            before = at
    return found


def _shared(a: Sequence[str], b: Sequence[str]) -> int:
    """In how many columns two names begin alike."""
    return next((at for at, (one, other) in enumerate(zip(a, b, strict=False)) if one != other), min(len(a), len(b)))


def _around(name: Sequence[str], positions: Iterable[int], most: int) -> list[Range]:
    """The parts between dots that these positions stand in, or as much as is to be kept of each."""
    ranges = []
    for position in positions:
        at = min(position, len(name) - 1)
        begin, end = at, at + 1
        while begin > 0 and end - begin < most and name[begin - 1] not in ". ":
            begin -= 1
        while name[at] not in ". " and end < len(name) and end - begin < most and name[end] not in ". ":
            end += 1
        ranges.append((begin, end))
    return ranges


def _visible(name: Sequence[str], size: int, kept: list[Range]) -> str:
    """The name with these ranges, and as much of both ends as there is room for; empty where the ranges alone do not fit."""
    length = len(name)
    ranges = list(_merged([(0, 1), *kept, (length - 1, length)]))
    if (room := size - _taken(ranges)) < 0:
        if kept:
            return ""
        ranges, room = [(0, 0), (length, length)], size - 1
    while room > 0 and len(ranges) > 1:
        head = room - room // 3
        ranges = list(_merged([(0, ranges[0][1] + head), *ranges[1:-1], (ranges[-1][0] - room // 3, length)]))
        room = size - _taken(ranges)
    return DOTS.join(joined(name[begin:end]) for begin, end in ranges)


def _merged(ranges: list[Range]) -> Iterator[Range]:
    """The ranges in order; those that touch, or leave out one column only, as one."""
    begin, end = 0, 0
    for first, last in sorted(ranges):
        if first > end + 1:
            yield begin, end
            begin = first
        end = max(end, last)
    yield begin, end


def _taken(ranges: list[Range]) -> int:
    return sum(end - begin for begin, end in ranges) + len(ranges) - 1
