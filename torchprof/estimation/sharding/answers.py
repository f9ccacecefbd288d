"""The ``Work`` of a collective, as hooks of DistributedDataParallel ask it: it is done, and its future has the tensors.

PyTorch's fake process groups return futures without the tensors. What runs once they are done, ``then``, runs at once, on a
stream of PyTorch's pool, as after NCCL's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import cycle
from typing import Any

import torch
import torch.distributed as dist
from torch.futures import Future

from torchprof.estimation.sharding.streams import POOL
from torchprof.record.nested import find_tensors

__all__ = ["Answer", "AnsweredWork", "streams_of_pool"]


class Answer(Future[Any]):
    """A future that is done.

    Args:
        value: what it has.
        streams: those on which what follows runs, in turn.
    """

    def __init__(self, value: Any, streams: Iterator[Any]) -> None:
        super().__init__()
        self._streams = streams
        self.set_result(value)

    def then(self, callback: Callable[[Any], Any]) -> Answer:
        """Run this now."""
        with torch.cpu.stream(next(self._streams)):
            return Answer(callback(self), self._streams)


class AnsweredWork(dist.Work):
    """The work of a collective, which is done.

    Args:
        value: what the future has: the tensors that were filled.
        held: the tensors that it holds.
        until_wait: whether that is only until it is awaited; else, as long as it is there.
        streams: as of `Answer`.
    """

    def __init__(self, value: Any, held: list[torch.Tensor], until_wait: bool, streams: Iterator[Any]) -> None:
        super().__init__()
        self._value, self._held, self._until_wait, self._streams = value, held, until_wait, streams

    def wait(self, *args: Any, **options: Any) -> bool:
        """All ranks have done their part."""
        self.synchronize()
        return True

    def synchronize(self) -> None:
        """As `wait`."""
        if self._until_wait:
            self._held.clear()

    def is_completed(self) -> bool:
        """It is."""
        return True

    def is_success(self) -> bool:
        """It was."""
        return True

    def result(self) -> list[torch.Tensor]:
        """The tensors that were filled."""
        return find_tensors(self._value)

    def get_future(self) -> Answer:
        """A future that has these."""
        return Answer(self._value, self._streams)


def streams_of_pool() -> Iterator[Any]:
    """The streams of PyTorch's pool, made when the first is asked for."""
    yield from cycle([torch.cpu.Stream(priority=0) for _ in range(POOL)])
