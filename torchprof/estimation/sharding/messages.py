"""What a rank sends to single ranks and receives from them, in order: no rank is there, so each returns at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.distributed as dist

from torchprof.errors import EstimateError
from torchprof.estimation.fake.callers import replaced
from torchprof.estimation.sharding.communication import dimension_of
from torchprof.wording import counted

__all__ = ["ANYBODY", "Message", "Wait", "messages_recorded"]

ANYBODY = -1
"""The peer of a receive that takes what comes first."""


@dataclass(frozen=True, slots=True)
class Message:
    """Something that a rank begins to send to another one, or to receive.

    Attributes:
        kind: what the rank does.
        peer: the other rank, by its number in the world; `ANYBODY`.
        group: the ranks of the process group.
        dimension: of the mesh that the group is, by its name.
        tag: as the program gave it.
        bytes: of the tensor.
        what: for a message of a schedule, which one it is; else empty.
    """

    kind: Literal["send", "receive"]
    peer: int
    group: tuple[int, ...]
    dimension: str
    tag: int
    bytes: int
    what: str = ""


@dataclass(frozen=True, slots=True)
class Wait:
    """A rank goes on only once a message that it began has been received.

    Attributes:
        number: its number among the messages of the rank.
    """

    number: int


@dataclass(slots=True)
class _Messages:
    events: list[Message | Wait] = field(default_factory=list)
    count: int = 0

    def add(self, message: Message) -> int:
        self.events.append(message)
        self.count += 1
        return self.count - 1


class HeldWork:
    """The work of one message, which holds its tensor: with gloo as long as it is there, with NCCL until it is awaited."""

    def __init__(self, work: Any, tensor: torch.Tensor, messages: _Messages, number: int, until_wait: bool) -> None:
        self._work, self._messages, self._number, self._until_wait = work, messages, number, until_wait
        self._tensor: torch.Tensor | None = tensor

    def __getattr__(self, name: str) -> Any:
        return getattr(self._work, name)

    def wait(self, *args: Any, **options: Any) -> bool:
        """The other rank has done its part."""
        self._messages.events.append(Wait(self._number))
        if self._until_wait:
            self._tensor = None
        return True

    def _source_rank(self) -> int:
        raise EstimateError(
            f"rank {dist.get_rank()} receives from any rank and asks which one it was, and nobody is there: say which, with "
            "src= of torch.distributed.recv"
        )

    def is_completed(self) -> bool:
        """Whoever asks is told so, and need not ask again."""
        return self.wait()


@contextmanager
def messages_recorded(until_wait: bool) -> Iterator[list[Message | Wait]]:
    """The messages of the rank, in order, and where it waits for them, until the block ends.

    Args:
        until_wait: whether what is sent is held only until it is awaited.

    Raises:
        EstimateError: inside, where there is no such rank.
    """
    messages = _Messages()
    with ExitStack() as stack:
        for name in ("send", "recv", "recv_anysource"):
            stack.enter_context(replaced(dist.ProcessGroup, name, _recorded(name, messages, until_wait)))
        yield messages.events


def _recorded(name: str, messages: _Messages, until_wait: bool) -> Any:
    original = getattr(dist.ProcessGroup, name)
    kind: Any = "send" if name == "send" else "receive"

    def recorded(group: Any, tensors: list[torch.Tensor], *args: Any) -> Any:
        peer, tag = args if len(args) == 2 else (None, *args)
        tensor = tensors[0]
        ranks = tuple(dist.get_process_group_ranks(group))
        dimension = dimension_of(group)
        if peer is not None and not 0 <= peer < len(ranks):
            does = "sends to" if kind == "send" else "receives from"
            raise EstimateError(
                f"rank {dist.get_rank()} {does} rank {peer} of the group {dimension!r}, which has {counted(len(ranks), 'rank')}"
            )
        whom = ANYBODY if peer is None else ranks[peer]
        number = messages.add(Message(kind, whom, ranks, dimension, tag, tensor.numel() * tensor.itemsize))
        return HeldWork(original(group, tensors, *args), tensor, messages, number, until_wait)

    return recorded
