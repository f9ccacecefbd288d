"""Ops that work on each element of their lists alone: what is found of one element holds for all that are equal to it.

Optimizers hand them hundreds of tensors, of which a model of equal layers has a few kinds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple

__all__ = ["BY_ELEMENT", "Kinds", "kinds_of", "lists_of"]

BY_ELEMENT: Final = ("aten::_foreach_", "aten::_amp_foreach_", "aten::_fused_")
"""What the names of these ops begin with, as DTensor tells them too."""


class Kinds(NamedTuple):
    """Which elements of lists are equal.

    Attributes:
        firsts: the places of elements that are unlike those before them.
        kinds: for each place, which of ``firsts`` its element is equal to.
    """

    firsts: list[int]
    kinds: list[int]

    def shortened(self, values: Sequence[Any]) -> Any:
        """Of a list, the elements that are unlike each other."""
        return type(values)(values[first] for first in self.firsts)  # type: ignore[call-arg]

    def lengthened(self, values: Sequence[Any]) -> list[Any]:
        """What was found of these, for each element."""
        return [values[kind] for kind in self.kinds]


def lists_of(args: Sequence[Any], others: Iterable[Any]) -> dict[int, Sequence[Any]]:
    """The arguments that are lists of one element for each, by place; none where it cannot be told.

    Args:
        args: those of an op of `BY_ELEMENT`.
        others: its keyword arguments.
    """
    lists: dict[int, Sequence[Any]] = {place: arg for place, arg in enumerate(args) if isinstance(arg, list | tuple) and arg}
    lengths = {len(arg) for arg in lists.values()}
    return lists if len(lengths) == 1 and not any(isinstance(other, list | tuple) for other in others) else {}


def kinds_of(lists: Iterable[Sequence[Any]], shown: Callable[[Any], Any]) -> Kinds | None:
    """Which elements of lists are equal; None where none are.

    Args:
        lists: as long as each other.
        shown: of a part of an element, what it is compared by.
    """
    places: dict[Any, int] = {}
    kinds: list[int] = []
    firsts: list[int] = []
    for place, element in enumerate(zip(*lists, strict=True)):
        kind = places.setdefault(tuple(map(shown, element)), len(firsts))
        if kind == len(firsts):
            firsts.append(place)
        kinds.append(kind)
    return Kinds(firsts, kinds) if len(firsts) < len(kinds) else None
