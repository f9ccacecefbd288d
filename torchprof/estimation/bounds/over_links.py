"""The least time that what is sent along the dimensions of the mesh takes, over the links that its ranks have.

A collective is no faster than what one rank, or one host, has to send or to receive. Where the ranks of a group are all on one
host, or each is on another, that is the bytes by the factor of bus bandwidth, over the link. Where several ranks of each of
several hosts are in it, a host receives what others have once, over the networks of all these ranks, and each rank receives
over its network and its own link together. Only all-to-all brings every rank something else.

Links that are different ones may all be busy at once; one link sends one thing after the other, whichever dimension it is of.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from torchprof.analysis.distributed.bandwidth import bus_factor
from torchprof.estimation.bounds.links import Link
from torchprof.estimation.sharding.communication import Sent

__all__ = ["Route", "least_seconds"]

MESSAGES: Final = ("send", "receive")
"""What goes in one direction, so that both may go on at once."""


@dataclass(frozen=True, slots=True)
class Route:
    """How the ranks of a process group reach each other.

    Attributes:
        ranks: how many there are.
        own: the link between those on one host; None: each is on another one, or all go over the network.
        network: the link between hosts; None: all are on one, or all go over the own link.
        hosts: on how many hosts they are, where both are needed.
        per_host: how many of them are on one host, where both are needed.
    """

    ranks: int
    own: Link | None
    network: Link | None
    hosts: int = 1
    per_host: int = 1

    @classmethod
    def over(cls, link: Link, ranks: int) -> Route:
        """All over one link, wherever they are."""
        return cls(ranks, None, link) if link.crosses_hosts else cls(ranks, link, None)

    @property
    def name(self) -> str:
        """Of the links."""
        return " and ".join(link.name for link in (self.own, self.network) if link is not None)


def least_seconds(sent: Iterable[tuple[Sent, Route]]) -> float:
    """The least time that all of this takes together."""
    busy: dict[str, dict[str, float]] = {}
    for each, route in sent:
        direction = each.collective if each.collective in MESSAGES else ""
        for link, seconds in _busy(each, route):
            of_link = busy.setdefault(link, {})
            of_link[direction] = of_link.get(direction, 0.0) + seconds
    return max((of_link.pop("", 0.0) + max(of_link.values(), default=0.0) for of_link in busy.values()), default=0.0)


def _busy(each: Sent, route: Route) -> Iterator[tuple[str, float]]:
    """For how long it keeps each link busy, by what the link is called, or two of them together."""
    links = [link for link in (route.own, route.network) if link is not None]
    together = sum(link.bandwidth for link in links)
    # Bandwidths of one's own are not known to be of the same link, whichever dimensions they are given for.
    name = route.name if all(link.crosses_hosts is not None for link in links) else each.dimension
    yield name, _factor(each, route.ranks, reduces=any(link.reduces for link in links)) * each.bytes / together
    if route.own is not None and route.network is not None and each.collective not in MESSAGES:
        networks = 1 if each.collective == "all-to-all" else route.per_host
        factor = _factor(each, route.hosts, reduces=route.network.reduces)
        yield route.network.name, factor * each.bytes / (networks * route.network.bandwidth)


def _factor(each: Sent, ranks: int, *, reduces: bool) -> float:
    """How much of its bytes a rank sends or receives, whichever is more."""
    factor = bus_factor(each.collective, ranks) or 0.0
    return min(factor, 1.0) if reduces else factor
