"""What is sent along each dimension of the mesh, over which links, and the least time that takes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from torchprof.analysis.distributed.bandwidth import bus_factor
from torchprof.errors import ArgumentError, ModuleTypeError
from torchprof.estimation.bounds.bound import OverLink
from torchprof.estimation.bounds.links import LINKS, NETWORK_OF, OWN_LINK_OF, Link, link_of
from torchprof.estimation.bounds.over_links import Route, least_seconds
from torchprof.estimation.sharding.communication import Sent
from torchprof.estimation.sharding.hosts import PER_HOST, hosts_of
from torchprof.trace.trace import Trace
from torchprof.wording import nearest, shown

__all__ = ["Along", "sent_along"]

BARRIER: Final = "barrier"
"""It has no bytes."""


@dataclass(frozen=True, slots=True)
class Along:
    """What is sent along the dimensions of the mesh.

    Attributes:
        seconds: the least time of all of it; None: not known of all.
        dimensions: one by one.
        assumed, unknown: in words.
    """

    seconds: float | None
    dimensions: tuple[OverLink, ...]
    assumed: tuple[str, ...]
    unknown: tuple[str, ...]


def sent_along(trace: Trace, sent: Sequence[Sent], links: Any, gpu: str | None) -> Along:
    """What is sent, over the links that are given, or those of a GPU.

    Args:
        trace: of the estimate.
        sent: by collective and dimension.
        links: what is sent over, by dimension, as it was given.
        gpu: its name in ``torchprof.GPUS``; None: not known.

    Raises:
        ArgumentError, ModuleTypeError: of the links.
    """
    given = _checked(links, trace, sent)
    routed: list[tuple[Sent, Route]] = []
    dimensions, assumed, unknown = [], [], []
    for name, group in dict.fromkeys((each.dimension, each.group) for each in sent):
        here = [each for each in sent if (each.dimension, each.group) == (name, group)]
        route, why = _route(here[0], given.get(name), trace, gpu)
        if route is None:
            unknown.append(f"what is sent along {name}: {why}")
        elif why:
            assumed.append(f"{name} is {route.name}: {why}")
        over = [(each, route) for each in here if route is not None]
        routed += over
        dimensions.append(
            OverLink(
                dimension=name,
                ranks=here[0].ranks,
                bytes=sum(each.bytes for each in here),
                link=route.name if route is not None else None,
                seconds=least_seconds(over) if route is not None else None,
            )
        )
    unknown += [f"the time of {kind}" for kind in _without_factor(sent)]
    seconds = None if unknown else least_seconds(routed)
    return Along(seconds, tuple(dimensions), tuple(assumed), tuple(unknown))


def _without_factor(sent: Sequence[Sent]) -> list[str]:
    """Kinds of collectives of which it is not known how much of their bytes a rank sends."""
    return sorted({each.collective for each in sent if bus_factor(each.collective, each.ranks) is None} - {BARRIER})


def _checked(links: Any, trace: Trace, sent: Sequence[Sent]) -> dict[str, Link]:
    """The links that are given, by dimension."""
    if links is None:
        return {}
    if not isinstance(links, Mapping):
        raise ModuleTypeError(
            f"links must be a dict of links by dimension of the mesh, such as {{'tp': 'NVLink 4'}}, not {shown(links)}"
        )
    known = list(dict.fromkeys(_dimensions(trace, sent)))
    for name in links:
        if known and name not in known:
            near = nearest(name, known) if isinstance(name, str) else None
            others = f"did you mean {near!r}?" if near else f"it has {', '.join(map(repr, known))}"
            raise ArgumentError(f"links={shown(links)} has {shown(name)}, which is no dimension of the mesh: {others}")
    return {name: link_of(str(name), value) for name, value in links.items()}


def _dimensions(trace: Trace, sent: Sequence[Sent]) -> Iterator[str]:
    """The names of dimensions that something is sent along, or that the mesh of the parameters has."""
    yield from (each.dimension for each in sent)
    for mesh in trace.facts.get("meshes", ()):
        yield from mesh["dimensions"] or ()


def _route(sent: Sent, link: Link | None, trace: Trace, gpu: str | None) -> tuple[Route | None, str]:
    """How the ranks along a dimension reach each other, and what is assumed; or None, and why it is not known.

    Args:
        sent: something that is sent along it.
        link: that is given for it.
    """
    name = sent.dimension
    members = next((each["ranks"] for each in trace.facts.get("process_groups", ()) if each["name"] == sent.group), None)
    own = LINKS.get(OWN_LINK_OF.get(gpu or "", ""))
    network = link or LINKS.get(NETWORK_OF.get(gpu or "", ""))
    if link is not None and (not link.crosses_hosts or members is None or own is None):
        return Route.over(link, sent.ranks), ""
    if members is None:
        return None, f"which ranks it has is not known: say what it goes over with links={{{name!r}: 'NVLink 4'}}"
    hosts, per_host = hosts_of(members)
    if link is not None and 1 in (hosts, per_host):
        return Route.over(link, sent.ranks), ""
    if own is None or (network is None and hosts > 1):
        of = "no GPU with links of its own is known" if gpu is None else f"no network is known of {gpu}"
        example = "NVLink 4" if hosts == 1 else "InfiniBand NDR"
        return None, f"{of}: say what it goes over with links={{{name!r}: {example!r}}}"
    if hosts == 1:
        return Route(sent.ranks, own, None), f"its ranks are on one host of {PER_HOST}"
    if per_host == 1:
        return Route(sent.ranks, None, network), f"each of its ranks is on another host of {PER_HOST}, with a port for each GPU"
    return Route(
        sent.ranks, own, network, hosts, per_host
    ), f"its ranks are on {hosts} hosts of {PER_HOST}, with a port for each GPU"
