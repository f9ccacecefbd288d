"""Which messages of ranks meet, and which rank would wait for ever."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from torchprof.errors import EstimateError
from torchprof.estimation.sharding.deadlocks import check_messages
from torchprof.estimation.sharding.messages import ANYBODY, Message, Wait

Events = Sequence[Message | Wait]


def send(peer: int, size: int = 4, tag: int = 0, group: tuple[int, ...] = (0, 1)) -> Message:
    return Message("send", peer, group, "world", tag, size)


def receive(peer: int, size: int = 4, tag: int = 0, group: tuple[int, ...] = (0, 1)) -> Message:
    return Message("receive", peer, group, "world", tag, size)


@pytest.mark.parametrize(
    "ranks",
    [
        {0: [], 1: []},
        {0: [send(1), Wait(0)], 1: [receive(0), Wait(0)]},
        {0: [send(1), Wait(0), receive(1), Wait(1)], 1: [receive(0), Wait(0), send(0), Wait(1)]},
        {0: [send(1), receive(1), Wait(0), Wait(1)], 1: [send(0), receive(0), Wait(0), Wait(1)]},  # as a batch does
        {0: [send(1, 4), send(1, 8), Wait(1), Wait(0)], 1: [receive(0, 4), Wait(0), receive(0, 8), Wait(1)]},
        {0: [send(1, 4, tag=1), send(1, 8)], 1: [receive(0, 8), Wait(0), receive(0, 4, tag=1), Wait(1)]},
        {0: [send(1), Wait(0)], 1: [receive(ANYBODY), Wait(0)]},
        {0: [receive(ANYBODY), Wait(0)], 1: [send(0), Wait(0)]},
        {0: [send(1)], 1: []},  # nobody waits for it
        {0: [send(7), Wait(0), receive(7), Wait(1)]},  # of which nothing is known
        {0: [send(0), receive(0), Wait(0), Wait(1)]},
    ],
)
def test_messages_that_meet_are_fine(ranks: dict[int, Events]) -> None:
    check_messages(ranks)


@pytest.mark.parametrize(
    ("ranks", "said"),
    [
        (
            {0: [receive(1), Wait(0)], 1: []},
            r"^rank 0 would wait for ever to receive 4 B from rank 1 \(group 'world'\), which ",
        ),
        ({0: [receive(1), Wait(0)], 1: []}, "which sends it no more. What one rank sends the other has to receive"),
        (
            {0: [], 1: [send(0), Wait(0)]},
            "^rank 1 would wait for ever to send 4 B to rank 0 .*, which receives no more from it",
        ),
        (
            {0: [send(1), Wait(0), receive(1), Wait(1)], 1: [send(0), Wait(0), receive(0), Wait(1)]},
            "rank 0 would .* to send 4 B to rank 1 .* Rank 1 would .* to send 4 B to rank 0 .*batch_isend_irecv",
        ),
        ({0: [send(1, tag=2), Wait(0)], 1: [receive(0), Wait(0)]}, r"to rank 1 \(group 'world', tag 2\)\. Rank 1 would"),
        ({0: [send(1, group=(0, 1, 2)), Wait(0)], 1: [receive(0), Wait(0)]}, "rank 0 would wait"),
        ({0: [send(0), Wait(0), receive(0), Wait(1)]}, "to rank 0 .*, which is itself"),
        ({0: [receive(ANYBODY), Wait(0)], 1: []}, "rank 0 would wait for ever to receive 4 B from any rank"),
        (
            {0: [send(1, 4), send(1, 8)], 1: [receive(0, 8), receive(0, 4)]},
            "rank 0 sends 4 B to rank 1, which receives 8 B .*: both must have the same shape, dtype and order",
        ),
        ({0: [receive(1, 8)], 1: [send(0, 4)]}, "rank 1 sends 4 B to rank 0, which receives 8 B"),
    ],
)
def test_a_rank_that_would_wait_for_ever_is_named(ranks: dict[int, Events], said: str) -> None:
    with pytest.raises(EstimateError, match=said):
        check_messages(ranks)


def test_of_many_ranks_that_wait_a_few_are_named() -> None:
    ring = range(9)
    group = tuple(ring)
    with pytest.raises(EstimateError, match=r"Rank 3 would .*\. So would 5 others\. What"):
        check_messages({rank: [receive((rank + 1) % 9, group=group), Wait(0)] for rank in ring})


def test_a_message_of_a_schedule_is_told_from_another_of_its_size() -> None:
    first, second = (Message("send", 1, (0, 1), "pp", 0, 4, what) for what in ("microbatch 0", "microbatch 1"))
    with pytest.raises(EstimateError, match="rank 0 sends microbatch 1 to rank 1 where that one receives microbatch 0"):
        check_messages({0: [second], 1: [Message("receive", 0, (0, 1), "pp", 0, 4, first.what)]})
