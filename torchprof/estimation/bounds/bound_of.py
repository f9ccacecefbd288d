"""Which bound an estimate has: what it computes at the peaks of a GPU, and what it sends over links."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torchprof.analysis.distributed.bandwidth import bus_factor
from torchprof.errors import ArgumentError, ModuleTypeError
from torchprof.estimation.bounds.bound import Bound, OverLink
from torchprof.estimation.bounds.links import LINKS, NETWORK_OF, OWN_LINK_OF, Link, link_of
from torchprof.estimation.bounds.over_links import Route, least_seconds
from torchprof.estimation.bounds.peaks import Peaks
from torchprof.estimation.bounds.step_flops import StepFlops, step_flops
from torchprof.estimation.sharding.communication import Sent
from torchprof.estimation.sharding.hosts import PER_HOST, hosts_of
from torchprof.trace.ceilings import Ceilings
from torchprof.trace.trace import Trace
from torchprof.wording import nearest, shown

__all__ = ["bound_of"]

NAME_A_GPU = "no GPU is known: name one, as in bound('H100-80GB'), or give torchprof.Ceilings"


def bound_of(
    trace: Trace,
    sent: Sequence[Sent],
    gpu: str | Ceilings | None,
    links: Mapping[str, float | str] | None,
) -> Bound:
    """The bound of the last step of an estimate.

    Args:
        trace: of the estimate.
        sent: what it sends in that step.
        gpu: whose peaks are taken, and whose links where ``links`` names none; None: no GPU is known.
        links: as for `Estimate.bound`.
    """
    peaks = Peaks.of_gpu(gpu) if gpu is not None else None
    flops = step_flops(trace)
    unknown = [*_not_computed(flops, peaks)]
    compute = peaks.seconds(flops.all) if peaks is not None else None
    if not compute and (flops.all or flops.unknown):
        compute = None
    assumed = ["half of the FLOPs of attention in one kernel, as a causal mask leaves out as much"] if flops.halved else []
    dimensions, routes = [], []
    given = _checked(links, trace, sent)
    for name, group in dict.fromkeys((each.dimension, each.group) for each in sent):
        here = [each for each in sent if (each.dimension, each.group) == (name, group)]
        route, why = _route(name, here[0], given, trace, peaks)
        if route is None:
            unknown.append(f"what is sent along {name}: {why}")
        elif why:
            assumed.append(f"{name}: {route.name}, {why}")
        known = route is not None
        over = [(each, route) for each in here if route is not None]
        routes += over
        dimensions.append(
            OverLink(
                name,
                here[0].ranks,
                sum(each.bytes for each in here),
                route.name if route else None,
                least_seconds(over) if known else None,
            )
        )
    kinds = sorted({each.collective for each in sent if each.bytes and bus_factor(each.collective, each.ranks) is None})
    unknown += [f"how long {kind} takes" for kind in kinds]
    is_known = len(routes) == len(sent) and not kinds
    communication = least_seconds(routes) if is_known else None
    step = max(compute, communication) if compute is not None and communication is not None else None
    mfu = peaks.seconds(flops.model) / step if peaks is not None and step else None
    return Bound(
        compute,
        communication,
        step,
        mfu,
        tuple(unknown),
        tuple(dimensions),
        tuple(assumed),
        peaks.of if peaks is not None else None,
        flops.all,
        sum(flops.recomputed.values()),
    )


def _not_computed(flops: StepFlops, peaks: Peaks | None) -> Iterator[str]:
    """What of the FLOPs is not counted, in words."""
    if flops.unknown:
        yield f"the FLOPs of {', '.join(flops.unknown)}"
    if peaks is None:
        yield f"how fast it computes: {NAME_A_GPU}"
        return
    for dtype in sorted(flops.all):
        if peaks.rate(dtype) is None:
            yield f"what is computed in {dtype}, of which no rate of {peaks.of} is known: give torchprof.Ceilings of your own"


def _checked(links: Any, trace: Trace, sent: Sequence[Sent]) -> dict[str, Link]:
    """The links that are given, by dimension."""
    if links is None:
        return {}
    if not isinstance(links, Mapping):
        raise ModuleTypeError(
            f"links must be a dict of links by dimension of the mesh, such as {{'tp': 'NVLink 4'}}, not {shown(links)}"
        )
    known = {each.dimension: None for each in sent} | {
        name: None for mesh in trace.facts.get("meshes", ()) for name in mesh["dimensions"] or ()
    }
    found = {}
    for name, value in links.items():
        if sent and name not in known:
            near = nearest(name, known) if isinstance(name, str) else None
            others = f"did you mean {near!r}?" if near else f"use one of {', '.join(map(repr, known))}"
            raise ArgumentError(f"links={shown(links)} names {shown(name)}, which is no dimension of the mesh: {others}")
        found[name] = link_of(name, value)
    return found


def _route(name: str, sent: Sent, given: Mapping[str, Link], trace: Trace, peaks: Peaks | None) -> tuple[Route | None, str]:
    """How the ranks along a dimension reach each other, and why it is so; or None, and why it is not known."""
    link = given.get(name)
    members = next((each["ranks"] for each in trace.facts.get("process_groups", ()) if each["name"] == sent.group), None)
    if link is not None and (link.crosses_hosts is not True or members is None):
        return Route.over(link, sent.ranks), ""
    if members is None:
        return None, "which ranks it has is not known"
    hosts, per_host = hosts_of(members)
    gpu = (peaks.gpu if peaks is not None else None) or ""
    own = LINKS[OWN_LINK_OF[gpu]] if gpu in OWN_LINK_OF else None
    if link is not None:
        if hosts == 1 or per_host == 1 or own is None:
            return Route.over(link, sent.ranks), ""
        return Route(sent.ranks, own, link, hosts, per_host), f"its ranks are on {hosts} hosts of {PER_HOST}"
    network = LINKS[NETWORK_OF[gpu]] if gpu in NETWORK_OF else None
    if hosts == 1:
        if own is None:
            return None, f"no link is known of it: links={{{name!r}: 'NVLink 4'}} says which"
        return Route(sent.ranks, own, None), f"as its ranks are on one host of {PER_HOST}"
    if network is None or own is None:
        return None, f"no network is known of it: links={{{name!r}: 'InfiniBand NDR'}} says which"
    if per_host == 1:
        return Route(sent.ranks, None, network), "as its ranks are on different hosts, with a port for each GPU"
    return (
        Route(sent.ranks, own, network, hosts, per_host),
        f"as its ranks are on {hosts} hosts of {PER_HOST}, with a port for each GPU",
    )
