"""Shapes as people read them: a size may be ragged, or unknown."""

from __future__ import annotations

from collections.abc import Iterable

from torchprof.trace.schema import RAGGED, UNKNOWN

__all__ = ["Operand", "Shape", "Size", "numel", "shape_of", "shape_text"]

Size = int | str | None
"""``"j"`` where the tensors in a nested tensor have different sizes, None where the size is unknown."""
Shape = tuple[Size, ...]
Operand = Shape | str
"""The shape of a tensor, or the name of the class of an object in which no tensors could be found."""

_WORDS: dict[int, Size] = {RAGGED: "j", UNKNOWN: None}


def shape_of(dims: Iterable[int]) -> Shape:
    """The shape of sizes as ``trace.dims`` holds them."""
    sizes = tuple(dims)
    return tuple([_WORDS.get(size, size) for size in sizes]) if min(sizes, default=0) < 0 else sizes


def numel(shape: Shape) -> int | None:
    """How many elements it has; None where a size is ragged or unknown."""
    count = 1
    for size in shape:
        if not isinstance(size, int):
            return None
        count *= size
    return count


def shape_text(shape: Operand) -> str:
    """``[2, j, 16]``; an unknown size is ``?``, and the name of a class stands as it is."""
    if isinstance(shape, str):
        return shape
    return f"[{', '.join(['?' if size is None else str(size) for size in shape])}]"
