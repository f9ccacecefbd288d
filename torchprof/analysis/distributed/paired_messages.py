"""Which messages of two ranks are the same one: the n-th that one sends to the other in a step, and the n-th received there.

The recorder reads where the op runs who the other rank is. Messages of one group and tag arrive in the order in which they were
sent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from torchprof.analysis.distributed.collectives import Collective, collectives_of
from torchprof.analysis.distributed.matched import steps_of_calls
from torchprof.analysis.remembered import remembered
from torchprof.trace.ranks import Ranks

__all__ = ["Pair", "paired"]

BETWEEN_TWO: Final = ("send", "receive")

Key = tuple[int, int, tuple[int, ...], int | None, int]


@dataclass(frozen=True, slots=True)
class Pair:
    """One message: who sent it and who received it, and what each of them asked for."""

    sender: int
    receiver: int
    sent: Collective
    received: Collective


@remembered
def paired(ranks: Ranks) -> tuple[Pair, ...]:
    """The messages of which both ends were recorded. Of a step in which numbers or sizes of them differ, none is."""
    ends: dict[str, dict[Key, list[Collective]]] = {kind: {} for kind in BETWEEN_TWO}
    for number, trace in zip(ranks.numbers, ranks, strict=True):
        calls = collectives_of(trace).collectives
        for call, step in zip(calls, steps_of_calls(trace, calls), strict=True):
            if call.kind in BETWEEN_TWO and call.peer is not None and call.members is not None:
                first, second = (number, call.peer) if call.kind == "send" else (call.peer, number)
                ends[call.kind].setdefault((first, second, call.members, call.tag, step), []).append(call)
    found = []
    for key, sent in ends["send"].items():
        received = ends["receive"].get(key, [])
        if _sizes(sent) == _sizes(received):
            found += [Pair(key[0], key[1], *both) for both in zip(sent, received, strict=True)]
    return tuple(found)


def _sizes(calls: Sequence[Collective]) -> list[int | None]:
    return [call.bytes for call in calls]
