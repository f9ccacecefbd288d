"""Methods that an interrupt cannot cut in two: see ``csrc/bindings/block.h``."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar, cast

__all__ = ["whole"]

Method = TypeVar("Method", bound=Callable[..., Any])


def whole(method: Method) -> Method:
    """For ``__enter__`` and ``__exit__`` of a class that has a ``Block`` as ``_block``: nothing of Python runs between the
    ``with`` and what the block does around them."""
    return cast(Method, _Whole(method))


class _Whole:
    """A method that is called by ``enter`` or ``exit`` of the block."""

    def __init__(self, method: Callable[..., Any]) -> None:
        self._method = method
        self.__doc__ = method.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name.strip("_")

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None:
            return self
        return partial(getattr(instance._block, self._name), self._method.__get__(instance))

    def __call__(self, instance: Any, *args: Any) -> Any:
        """As ``contextlib.ExitStack`` calls it: by the class."""
        return self.__get__(instance)(*args)
