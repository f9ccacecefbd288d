"""Ranks that would wait for each other for ever: what each sends, receives and waits for is played together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from torchprof.errors import EstimateError
from torchprof.estimation.sharding.messages import ANYBODY, Message, Wait
from torchprof.rendering.units import format_bytes

__all__ = ["check_messages"]

TOLD: Final = 4
"""Ranks that wait which are named; of more, how many."""

Events = Sequence[Message | Wait]


@dataclass(slots=True)
class _Rank:
    """How far a rank has come."""

    events: Events
    done: int = 0
    begun: list[Message] = field(default_factory=list)
    unmet: list[int] = field(default_factory=list)

    @property
    def waits_for(self) -> Message | None:
        """The message that it waits for; None at its end."""
        if self.done == len(self.events):
            return None
        event = self.events[self.done]
        assert isinstance(event, Wait)
        return self.begun[event.number]


def check_messages(ranks: Mapping[int, Events]) -> None:
    """Raise EstimateError where a rank waits for ever, or where what is received is not what was sent.

    A send is taken to end once it is received, as those of gloo do, and large ones of NCCL. Messages between two ranks meet in
    the order in which they were begun, for each process group and tag.

    Args:
        ranks: of each rank its messages and waits, in order. Those with other ranks are taken to be met.

    Example:
        >>> there = Message("receive", 1, (0, 1), "world", 0, 4)
        >>> check_messages({0: [there, Wait(0)], 1: []})
        Traceback (most recent call last):
        torchprof.errors.EstimateError: rank 0 would wait for ever to receive 4 B from rank 1 ...
    """
    states = {rank: _Rank(events) for rank, events in ranks.items()}
    going = True
    while going:
        going = any([_advance(rank, states) for rank in states])
    if stuck := {rank: message for rank, state in states.items() if (message := state.waits_for) is not None}:
        raise EstimateError(". ".join(_told(stuck)))


def _advance(rank: int, states: dict[int, _Rank]) -> bool:
    """Let a rank go on until it has to wait; returns whether it went on."""
    state = states[rank]
    before = state.done
    while state.done < len(state.events):
        event = state.events[state.done]
        if isinstance(event, Message):
            state.begun.append(event)
            if event.peer in states or event.peer == ANYBODY:
                _meet(rank, event, states)
        elif event.number in state.unmet:
            break
        state.done += 1
    return state.done > before


def _meet(rank: int, message: Message, states: dict[int, _Rank]) -> None:
    """Find the other side of the message that a rank just began, if that has begun too."""
    for other in states if message.peer == ANYBODY else (message.peer,):
        begun, unmet = states[other].begun, states[other].unmet
        for place in unmet:
            if _fit(rank, message, begun[place]):
                unmet.remove(place)
                sent, received = (rank, message), (other, begun[place])
                _same(*sent, *received) if message.kind == "send" else _same(*received, *sent)
                return
    states[rank].unmet.append(len(states[rank].begun) - 1)


def _fit(rank: int, message: Message, other: Message) -> bool:
    where = (message.group, message.dimension, message.tag)
    return message.kind != other.kind and other.peer in (rank, ANYBODY) and where == (other.group, other.dimension, other.tag)


def _same(sender: int, sent: Message, receiver: int, received: Message) -> None:
    """Raise EstimateError where two messages that meet are not the same one."""
    if sent.what != received.what:
        raise EstimateError(
            f"rank {sender} sends {sent.what} to rank {receiver} where that one receives {received.what}: between two ranks "
            "both must have the same order"
        )
    if sent.bytes != received.bytes:
        raise EstimateError(
            f"rank {sender} sends {_size(sent)} to rank {receiver}, which receives {_size(received)}{_where(sent)}: both must "
            "have the same shape, dtype and order"
        )


def _told(stuck: Mapping[int, Message]) -> Iterator[str]:
    """Who waits for whom, in words, and what to do."""
    for number, (rank, message) in enumerate([*stuck.items()][:TOLD]):
        yield f"{'Rank' if number else 'rank'} {rank} would wait for ever {_does(message)}{_why(rank, message, stuck)}"
    if len(stuck) > TOLD:
        yield f"So would {len(stuck) - TOLD} others"
    yield (
        "What one rank sends the other has to receive, in the same group, with the same tag and in the same order; where both "
        "send first, begin both with torch.distributed.batch_isend_irecv"
    )


def _does(message: Message) -> str:
    whom = "any rank" if message.peer == ANYBODY else f"rank {message.peer}"
    direction = "to send {} to {}" if message.kind == "send" else "to receive {} from {}"
    return direction.format(message.what or _size(message), whom) + _where(message)


def _why(rank: int, message: Message, stuck: Mapping[int, Message]) -> str:
    if message.peer == rank:
        return ", which is itself"
    if message.peer in stuck or message.peer == ANYBODY:
        return ""
    return ", which receives no more from it" if message.kind == "send" else ", which sends it no more"


def _where(message: Message) -> str:
    return f" (group {message.dimension!r}" + (f", tag {message.tag})" if message.tag else ")")


def _size(message: Message) -> str:
    return format_bytes(message.bytes)
