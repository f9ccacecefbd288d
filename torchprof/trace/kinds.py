"""Whether what was read from JSON is of the kind that annotations say: ``dict[str, int]``, ``list[str] | None``."""

from __future__ import annotations

import functools
import types
import typing
from typing import Any

__all__ = ["is_of_kind"]


@functools.cache
def _taken_apart(kind: Any) -> tuple[Any, tuple[Any, ...]]:
    return typing.get_origin(kind), typing.get_args(kind)


def is_of_kind(value: Any, kind: Any) -> bool:
    """Whether the value is of a kind: ``Any``, None, a class, a union, a ``TypedDict``, or a list, dict
    or tuple of kinds. The list that JSON makes of a tuple is one.

    A bool is no int. An int is a float, as JSON does not tell them apart, and must fit 64 bits.

    Example:
        >>> is_of_kind({"ops": 3}, dict[str, int])
        True
    """
    if kind is Any:
        return True
    if type(value) is kind and kind is not int:  # as most are: a model has tens of thousands
        return True
    origin, of = _taken_apart(kind)
    if origin in (types.UnionType, typing.Union):
        return any(is_of_kind(value, each) for each in of)
    if kind is None or kind is type(None):
        return value is None
    if kind in (int, float):
        return (isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63) or (
            kind is float and isinstance(value, float)
        )
    if typing.is_typeddict(kind):
        fields = typing.get_type_hints(kind)
        return isinstance(value, dict) and all(name in value and is_of_kind(value[name], of) for name, of in fields.items())
    if origin is None:
        return isinstance(value, kind)
    if origin is dict:
        return isinstance(value, dict) and all(is_of_kind(key, of[0]) and is_of_kind(at, of[1]) for key, at in value.items())
    if not isinstance(value, list | tuple if origin is tuple else origin):
        return False
    if origin is tuple and of[-1] is not Ellipsis:
        return len(value) == len(of) and all(map(is_of_kind, value, of))
    return all(is_of_kind(each, of[0]) for each in value)
