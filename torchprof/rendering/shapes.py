"""How shapes are written: as many as there is room for."""

from __future__ import annotations

import functools
from collections.abc import Collection, Sequence
from typing import Final

from torchprof.trace.shapes import Operand, Size, shape_text

__all__ = ["all_shapes", "shapes_of_calls"]

WIDEST: Final = 40
"""Characters of the shapes of a call; of one shape, however long it is."""


@functools.lru_cache(maxsize=4096)
def shapes_of_calls(calls: tuple[tuple[Operand, ...], ...], in_objects: int = 0) -> str:
    """The shapes of the first call. Where others differ from it in one size, that is a range; otherwise their number follows.

    [1, 1..64, 512]         calls on sequences of 1 to 64 tokens
    [4, 32, 54, 54] (+1)    other calls have one other shape
    [1, 16, 512] +4         beside this tensor, four are in an object

    Args:
        calls: the shapes of each.
        in_objects: how many of the first call's, the last of them, are of tensors in objects.
    """
    shown = len(calls[0]) - in_objects
    if 0 < shown < len(calls[0]):
        calls = tuple(dict.fromkeys(shapes[:shown] for shapes in calls))
    else:
        in_objects = 0
    first = calls[0]
    if len(calls) > 1 and all(_ranks(shapes) == _ranks(first) for shapes in calls):
        texts = [_with_ranges(shapes) for shapes in zip(*calls, strict=True)]
        if None not in texts:
            return _first_shapes([text for text in texts if text is not None], in_objects)
    text = _first_shapes([shape_text(shape) for shape in first], in_objects)
    return text if len(calls) == 1 else f"{text} (+{len(calls) - 1})"


def _with_ranges(shapes: Sequence[Operand]) -> str | None:
    """The shapes of one tensor in several calls, if at most one size differs."""
    if len(set(shapes)) == 1:
        return shape_text(shapes[0])
    sizes = [{size for size in of_calls if isinstance(size, int)} for of_calls in zip(*shapes, strict=True)]
    return f"[{', '.join(map(_range, sizes))}]" if sum(len(found) > 1 for found in sizes) == 1 else None


def _ranks(shapes: tuple[Operand, ...]) -> list[int | str]:
    """How many sizes each has; a shape with a size that is no number stands for itself."""
    return [len(shape) if all(isinstance(size, int) for size in shape) else shape_text(shape) for shape in shapes]


def _range(sizes: Collection[int]) -> str:
    return f"{min(sizes)}..{max(sizes)}" if len(sizes) > 1 else str(*sizes)


def _first_shapes(shapes: Sequence[str], further: int) -> str:
    """As many shapes as there is room for, and how many more there are, with some that are not among them."""
    text = ""
    for index, shape in enumerate(shapes):
        more = f"{', ' if text else ''}{shape}"
        if text and len(text) + len(more) > WIDEST:
            return f"{text} +{len(shapes) - index + further}"
        text += more
    return f"{text} +{further}" if further else text


def all_shapes(shapes: Sequence[Sequence[Size]]) -> str:
    """The shapes of an op."""
    text = ", ".join([shape_text(tuple(shape)) for shape in shapes])
    return text if len(text) <= 60 else f"{text[:57]}..."
