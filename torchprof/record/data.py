"""`torchprof.data`: names what a loop waits for, where that is no ``DataLoader``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from typing import Any, Generic, TypeVar, cast

import torch

from torchprof.errors import ModuleTypeError

__all__ = ["data"]

Item = TypeVar("Item")


class data(Generic[Item]):
    """Yields what an iterable yields, and what is spent in it is of the phase *data*.

    A ``torch.utils.data.DataLoader`` and its subclasses need it not: PyTorch says itself when a loop waits for one. Any other
    source of batches, such as a generator, or a loader of a library that has its own, is wrapped where the loop is. Outside of
    recordings it costs a user range of ``torch.profiler.record_function`` a batch, some microseconds.

    Args:
        iterable: what has the batches. ``iter()`` of this object begins it anew, where it can; ``len()`` is that of it.

    Raises:
        ModuleTypeError: it cannot be iterated over.

    Example:
        >>> with torchprof.profile(model) as prof:
        ...     for batch in torchprof.data(batch * 2 for batch in batches):
        ...         train_step(batch)
        ...         prof.step()
        >>> torchprof.by_step(prof.trace).rows[0]["data"]  # nanoseconds
    """

    def __init__(self, iterable: Iterable[Item]) -> None:
        if not isinstance(iterable, Iterable) and not hasattr(type(iterable), "__getitem__"):
            raise ModuleTypeError(f"data(iterable) takes what a loop can run over, not {type(iterable).__name__}")
        self._iterable = iterable
        self._range = f"torchprof.data({type(iterable).__name__})"

    def __iter__(self) -> Iterator[Item]:
        with torch.profiler.record_function(self._range):
            iterator = iter(self._iterable)
        end: Any = object()
        while True:
            with torch.profiler.record_function(self._range):
                item = next(iterator, end)
            if item is end:
                return
            yield cast(Item, item)

    def __len__(self) -> int:
        return len(cast(Sized, self._iterable))
