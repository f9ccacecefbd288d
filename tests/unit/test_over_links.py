"""The least time of what is sent, counted by hand: one link, two, and both; and links as they are given."""

from __future__ import annotations

from typing import Any

import pytest

import torchprof
from torchprof import ArgumentError
from torchprof.estimation.bounds.links import LINKS, NETWORK_OF, OWN_LINK_OF, Link, link_of
from torchprof.estimation.bounds.over_links import Route, least_seconds
from torchprof.estimation.sharding.communication import Sent
from torchprof.estimation.sharding.hosts import hosts_of
from torchprof.trace.ceilings import PUBLISHED

SIZE = 10**9
NVLINK, PCIE, NETWORK = LINKS["NVLink 4"], LINKS["PCIe 4"], LINKS["InfiniBand NDR"]
ETHERNET = LINKS["400 GbE"]


def sent(kind: str, ranks: int, dimension: str = "shard", size: int = SIZE) -> Sent:
    return Sent(kind, dimension, ranks, 1, size, dimension)


@pytest.mark.parametrize(
    ("kind", "factor"),
    [
        ("all-gather", 7 / 8),
        ("reduce-scatter", 7 / 8),
        ("all-to-all", 7 / 8),
        ("broadcast", 1),
        ("all-reduce", 2 * 7 / 8),
        ("send", 1),
        ("barrier", 0),
    ],
)
def test_over_one_link_the_bytes_by_the_factor_of_bus_bandwidth_pass(kind: str, factor: float) -> None:
    assert least_seconds([(sent(kind, 8), Route(8, PCIE, None))]) == pytest.approx(factor * SIZE / 32e9)
    assert least_seconds([(sent(kind, 8), Route(8, None, ETHERNET))]) == pytest.approx(factor * SIZE / 50e9)


def test_where_switches_sum_up_a_rank_sends_what_is_reduced_once() -> None:
    assert least_seconds([(sent("all-reduce", 8), Route(8, NVLINK, None))]) == pytest.approx(SIZE / 450e9)
    assert least_seconds([(sent("all-reduce", 2), Route(2, NVLINK, None))]) == pytest.approx(SIZE / 450e9)
    assert least_seconds([(sent("all-gather", 8), Route(8, NVLINK, None))]) == pytest.approx(7 / 8 * SIZE / 450e9)


def test_hosts_with_several_ranks_bring_in_once_what_all_of_them_need() -> None:
    over_both = Route(16, PCIE, NETWORK, hosts=2, per_host=8)
    between_hosts, by_each_rank = 1 / 2 * SIZE / (8 * 50e9), 15 / 16 * SIZE / (32e9 + 50e9)
    assert between_hosts < by_each_rank
    assert least_seconds([(sent("all-gather", 16), over_both)]) == pytest.approx(by_each_rank)
    far = Route(64, LINKS["NVLink 5"], LINKS["10 GbE"], hosts=32, per_host=2)
    assert least_seconds([(sent("all-gather", 64), far)]) == pytest.approx(31 / 32 * SIZE / (2 * 1.25e9))


def test_all_to_all_brings_each_rank_something_else() -> None:
    far = Route(16, NVLINK, NETWORK, hosts=2, per_host=8)
    assert least_seconds([(sent("all-to-all", 16), far)]) == pytest.approx(1 / 2 * SIZE / 50e9)


def test_a_message_goes_to_whichever_rank() -> None:
    far = Route(16, NVLINK, NETWORK, hosts=2, per_host=8)
    assert least_seconds([(sent("send", 16), far)]) == pytest.approx(SIZE / 500e9)


def test_a_link_sends_one_thing_after_the_other_and_links_work_at_once() -> None:
    gather, reduce = sent("all-gather", 8), sent("all-reduce", 8, "replicate")
    same = [(gather, Route(8, None, ETHERNET)), (reduce, Route(8, None, ETHERNET))]
    assert least_seconds(same) == pytest.approx((7 / 8 + 2 * 7 / 8) * SIZE / 50e9)
    others = [(gather, Route(8, NVLINK, None)), (reduce, Route(8, None, ETHERNET))]
    assert least_seconds(others) == pytest.approx(2 * 7 / 8 * SIZE / 50e9)


def test_messages_come_and_go_at_once_beside_collectives() -> None:
    route = Route(4, None, ETHERNET)
    both = [(sent("send", 4), route), (sent("receive", 4, size=3 * SIZE), route)]
    assert least_seconds(both) == pytest.approx(3 * SIZE / 50e9)
    assert least_seconds([*both, (sent("broadcast", 4), route)]) == pytest.approx(4 * SIZE / 50e9)


def test_bandwidths_of_ones_own_are_not_taken_to_be_of_one_link() -> None:
    own = link_of("shard", 50e9)
    over = [(sent("broadcast", 8, name), Route.over(own, 8)) for name in ("shard", "replicate")]
    assert least_seconds(over) == pytest.approx(SIZE / 50e9)


def test_nothing_takes_no_time() -> None:
    assert least_seconds([]) == 0


def test_hosts_have_eight_ranks() -> None:
    assert hosts_of([0, 1]) == hosts_of([6, 7]) == (1, 2)
    assert hosts_of([7, 8]) == (2, 1)
    assert hosts_of(range(12)) == (2, 8)


def test_every_gpu_has_a_link_and_those_of_a_machine_of_nvidias_a_network() -> None:
    assert OWN_LINK_OF.keys() == torchprof.GPUS.keys() == PUBLISHED.keys()
    assert NETWORK_OF.keys() <= OWN_LINK_OF.keys()
    assert not any(LINKS[name].crosses_hosts for name in OWN_LINK_OF.values())
    assert all(LINKS[name].crosses_hosts for name in NETWORK_OF.values())


@pytest.mark.parametrize("link", LINKS.values(), ids=LINKS.keys())
def test_a_known_link_says_its_source_and_is_of_one_direction(link: Link) -> None:
    assert LINKS[link.name] is link
    assert "direction" in link.source
    figure = 2 * link.bandwidth / 1e9 if "both" in link.source else link.bandwidth * 8 / 1e9
    assert f"{figure:,.0f} G" in link.source


@pytest.mark.parametrize(
    ("value", "bandwidth"),
    [("NVLink 4", 450e9), ("nvlink4", 450e9), ("infiniband-ndr", 50e9), (46e9, 46e9), (5 * 10**10, 5e10)],
)
def test_links_are_given_by_name_or_bandwidth(value: Any, bandwidth: float) -> None:
    assert link_of("tp", value).bandwidth == bandwidth


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0, "must be the name of a link, such as 'NVLink 4', or a bandwidth"),
        (-1.5, "more than 0, such as 50e9"),
        (float("nan"), r"links\['tp'\]=nan must be"),
        (float("inf"), r"links\['tp'\]=inf must be"),
        (True, r"links\['tp'\]=True must be"),
        (None, r"links\['tp'\]=None must be"),
        ([50e9], r"links\['tp'\]=\[50000000000.0\] must be"),
        ("NVLink", "no link that is known here: did you mean 'NVLink 2', 'NVLink 3', 'NVLink 4' or 'NVLink 5'"),
        ("", "no link that is known here: use one of NVLink 2, "),
        ("tin cans", "or bytes per second, such as 50e9"),
    ],
)
def test_what_is_no_link_is_named(value: Any, said: str) -> None:
    with pytest.raises(ArgumentError, match=said):
        link_of("tp", value)
