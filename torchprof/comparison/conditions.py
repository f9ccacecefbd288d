"""What is not the same about two sides, so that a difference of figures may be one of these."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from torchprof.comparison.side import Side

__all__ = ["unlike"]

MORE: Final = {"compiled code": "; calls of modules inside it are not seen"}
"""What else is to be known, by the condition."""

SAME_PART: Final = 1e-9
"""How far two parts of the same size may lie apart."""


def unlike(a: Side, b: Side) -> Iterator[str]:
    """A sentence for each condition that both sides know and that is not the same."""
    if a.per_step is not None and b.per_step is not None and a.per_step != b.per_step:
        which, other = ("A", "B") if a.per_step else ("B", "A")
        yield f"NOT COMPARABLE: {which} is per step, {other} has no steps: times, counts and FLOPs are of other amounts of work"
    for letter, side in (("A", a), ("B", b)):
        if side.losses:
            lost = ", ".join(f"{count:,} {table.replace('_', ' ')}" for table, count in side.losses.items())
            yield f"INCOMPLETE: {letter} lost {lost}: what it has of these is too little"
    if abs(a.evaluations - b.evaluations) > SAME_PART * max(a.evaluations, b.evaluations):
        parts = [f"{side.evaluations:.1%}" if side.evaluations else "none known" for side in (a, b)]
        yield f"Not the same: steps of the means in which a model was also evaluated: {parts[0]} in A, {parts[1]} in B"
    for name in dict.fromkeys([*a.conditions, *b.conditions]):
        mine, other = a.conditions.get(name, ""), b.conditions.get(name, "")
        if mine and other and mine != other:
            more = MORE.get(name, "")
            yield _batches(mine, other) if name == "inputs" else f"Not the same: {name}: {mine} in A, {other} in B{more}"


def _batches(a: str, b: str) -> str:
    """Of inputs that differ in their first dimension alone, the batch."""
    first = re.compile(r"\[(\d+)(?=[,\]])")
    sizes_a, sizes_b = first.findall(a), first.findall(b)
    if first.sub("[", a) == first.sub("[", b) and len(set(sizes_a)) == len(set(sizes_b)) == 1:
        return f"Not the same: batch {int(sizes_a[0]):,} in A, {int(sizes_b[0]):,} in B: figures are per step, not per sample"
    return f"Not the same: inputs {a} in A, {b} in B"
