"""Collectives whose ``Work`` is kept, as hooks of DistributedDataParallel do: it is done at once, and has an answer.

PyTorch's fake process groups return futures without the tensors. What runs once they are done, ``then``, runs at once, on a
stream of PyTorch's pool, as after NCCL's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from itertools import cycle
from typing import Any, Final

import torch
import torch.distributed as dist
from torch.futures import Future

from torchprof.estimation.fake.callers import replaced
from torchprof.record.nested import find_tensors

__all__ = ["Answer", "AnsweredWork", "let_go", "works_answered"]

COLLECTIVES: Final = (
    "allreduce allreduce_coalesced reduce broadcast allgather _allgather_base allgather_coalesced "
    "allgather_into_tensor_coalesced gather scatter reduce_scatter _reduce_scatter_base reduce_scatter_tensor_coalesced "
    "alltoall alltoall_base"
).split()
"""Methods of a process group whose first argument is what they fill."""
POOL: Final = 32
"""Streams that PyTorch has for whoever asks for one, of which each is given in turn."""


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
        work: that of the fake process group.
        value: what the future has: the tensors that were filled.
        held: what is held until the work is awaited, if it is.
        streams: as of `Answer`.
    """

    def __init__(self, work: Any, value: Any, held: list[torch.Tensor], streams: Iterator[Any]) -> None:
        super().__init__()
        self._work, self._value, self._held, self._streams = work, value, held, streams

    def wait(self, *args: Any, **options: Any) -> bool:
        """All ranks have done their part."""
        self._held.clear()
        return True

    def synchronize(self) -> None:
        """As `wait`."""
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


@contextmanager
def works_answered(*, holding: bool) -> Iterator[None]:
    """Collectives return work that has an answer, until the block ends.

    Args:
        holding: whether tensors of a collective that nobody waits for are held until the next one of its group, as NCCL's
            are: its watchdog learns that it is done, and the thread that calls the next one lets go of them.
    """
    streams = _streams()
    with ExitStack() as stack:
        stack.callback(_held.clear)
        for name in COLLECTIVES:
            if (original := getattr(dist.ProcessGroup, name, None)) is not None:
                stack.enter_context(replaced(dist.ProcessGroup, name, _answered(original, holding, streams)))
        yield


_held: Final[dict[str, list[torch.Tensor]]] = {}
"""By name of the group, the tensors of the last collective, if nobody has waited for it."""


def let_go(group: Any) -> None:
    """The group has another collective, of which nothing is known here."""
    _held.pop(str(group.group_name), []).clear()


def _streams() -> Iterator[Any]:
    """Those of a pool, made when the first is asked for."""
    yield from cycle([torch.cpu.Stream() for _ in range(POOL)])


def _answered(original: Any, holding: bool, streams: Iterator[Any]) -> Any:
    @wraps(original)
    def call(group: Any, *args: Any, **options: Any) -> Any:
        work = original(group, *args, **options)
        if work is None:
            return None
        first = args[0] if args else next(iter(options.values()))
        held: list[torch.Tensor] = []
        if holding:
            let_go(group)
            held += find_tensors((args, options))
            _held[str(group.group_name)] = held
        return AnsweredWork(work, [first] if isinstance(first, torch.Tensor) else first, held, streams)

    return call
