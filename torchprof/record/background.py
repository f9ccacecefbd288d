"""The recording that watches a program gives way where the program itself records something: a process has one."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["clear_background", "give_way", "set_background"]

_give_way: list[Callable[[], None]] = []


def set_background(give_way: Callable[[], None] | None) -> None:
    """What ends the recording in the background; None: there is none."""
    _give_way[:] = [give_way] if give_way is not None else []


def clear_background(give_way: Callable[[], None]) -> None:
    """There is none, if it was this one."""
    if _give_way == [give_way]:
        _give_way.clear()


def give_way() -> None:
    """A recording begins that the program asked for."""
    if _give_way:
        _give_way.pop()()
