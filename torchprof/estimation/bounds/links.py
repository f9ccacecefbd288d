"""Links that ranks send over: what vendors publish of them, and which one a GPU has."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from torchprof.errors import ArgumentError
from torchprof.rendering.units import format_rate
from torchprof.wording import meant, shown, written_so

__all__ = ["LINKS", "NETWORK_OF", "OWN_LINK_OF", "Link", "link_of"]

GIGABYTE: Final = 10**9
GIGABIT: Final = 10**9 / 8


@dataclass(frozen=True, slots=True)
class Link:
    """What one rank sends over.

    Attributes:
        name: such as ``"NVLink 4"``; of a bandwidth of one's own, the bandwidth.
        bandwidth: bytes per second and rank, in each direction.
        source: where that is known from.
        crosses_hosts: whether it is a network between hosts, of which each rank has one; None: it is not known what it is.
        reduces: whether switches may sum up, so that a rank sends what is reduced once, not nearly twice: NVIDIA's SHARP, of
            NVLink from the switches of NVLink 4 on, and of InfiniBand from HDR on.
    """

    name: str
    bandwidth: float
    source: str
    crosses_hosts: bool | None
    reduces: bool = False


def _table(*links: Link) -> dict[str, Link]:
    return {link.name: link for link in links}


def _nvlink(version: int, both: int, gpu: str, *, reduces: bool) -> Link:
    return Link(
        f"NVLink {version}",
        both / 2 * GIGABYTE,
        f"NVIDIA's data sheet of {gpu}: {both:,} GB/s of a GPU, of both directions",
        crosses_hosts=False,
        reduces=reduces,
    )


def _pcie(version: int, both: int, gpu: str) -> Link:
    return Link(
        f"PCIe {version}",
        both / 2 * GIGABYTE,
        f"NVIDIA's data sheet of {gpu}: {both} GB/s of 16 lanes, of both directions",
        crosses_hosts=False,
    )


def _network(name: str, gigabits: int, source: str, *, reduces: bool = False) -> Link:
    return Link(name, gigabits * GIGABIT, f"{source}: {gigabits} Gb/s, in each direction", crosses_hosts=True, reduces=reduces)


LINKS: Final[Mapping[str, Link]] = _table(
    _nvlink(2, 300, "V100", reduces=False),
    _nvlink(3, 600, "A100", reduces=False),
    _nvlink(4, 900, "H100", reduces=True),
    _nvlink(5, 1800, "HGX B200", reduces=True),
    _pcie(3, 32, "T4"),
    _pcie(4, 64, "L40S"),
    _pcie(5, 128, "H100 PCIe"),
    _network("InfiniBand EDR", 100, "NVIDIA's product brief of ConnectX-5"),
    _network("InfiniBand HDR", 200, "NVIDIA's data sheet of ConnectX-6", reduces=True),
    _network("InfiniBand NDR", 400, "NVIDIA's data sheet of ConnectX-7", reduces=True),
    _network("InfiniBand XDR", 800, "NVIDIA's data sheet of ConnectX-8", reduces=True),
    _network("10 GbE", 10, "the rate of the standard, IEEE 802.3ae"),
    _network("25 GbE", 25, "the rate of the standard, IEEE 802.3by"),
    _network("100 GbE", 100, "the rate of the standard, IEEE 802.3ba"),
    _network("200 GbE", 200, "the rate of the standard, IEEE 802.3bs"),
    _network("400 GbE", 400, "the rate of the standard, IEEE 802.3bs"),
    _network("800 GbE", 800, "the rate of the standard, IEEE 802.3df"),
)
"""Known links, by name: published figures, which no program reaches. Of a network, one port for each GPU."""

OWN_LINK_OF: Final[Mapping[str, str]] = {
    "T4": "PCIe 3",
    "V100-16GB": "NVLink 2",
    "V100-32GB": "NVLink 2",
    "RTX 3090": "PCIe 4",
    "RTX 4090": "PCIe 4",
    "A10": "PCIe 4",
    "L4": "PCIe 4",
    "L40S": "PCIe 4",
    "A100-40GB": "NVLink 3",
    "A100-80GB": "NVLink 3",
    "H100-80GB": "NVLink 4",
    "H200": "NVLink 4",
    "B200": "NVLink 5",
}
"""Between the GPUs of one host, as the data sheet of the GPU says; of V100, A100, H100 and H200 that of those with SXM."""

NETWORK_OF: Final[Mapping[str, str]] = {
    "V100-16GB": "InfiniBand EDR",
    "V100-32GB": "InfiniBand EDR",
    "A100-40GB": "InfiniBand HDR",
    "A100-80GB": "InfiniBand HDR",
    "H100-80GB": "InfiniBand NDR",
    "H200": "InfiniBand NDR",
    "B200": "InfiniBand NDR",
}
"""Between hosts, one port for each GPU, as in NVIDIA's own machines: DGX A100, DGX H100, DGX H200 and DGX B200 have eight ports
for eight GPUs; DGX-2, with V100, has one for two. Of other GPUs there is no such machine."""


def link_of(name: str, value: Any) -> Link:
    """The link that was given for a dimension: by its name, or as bytes per second.

    Args:
        name: of the dimension.
        value: what was given.

    Raises:
        ArgumentError: the name is unknown, or it is no bandwidth.

    Example:
        >>> link_of("tp", "nvlink4").bandwidth, link_of("tp", 46e9).name
        (450000000000.0, '42.8 GiB/s')
    """
    if isinstance(value, str):
        known = written_so(value, LINKS)
        if known is None:
            near = meant(value, LINKS) or f": use one of {', '.join(LINKS)}, or bytes per second, such as 50e9"
            raise ArgumentError(f"links[{name!r}]={shown(value)} is no link that is known here{near}")
        return LINKS[known]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ArgumentError(
            f"links[{name!r}]={shown(value)} must be the name of a link, such as 'NVLink 4', or a bandwidth: bytes per second "
            "of a rank in each direction, more than 0, such as 50e9"
        )
    return Link(format_rate(value), float(value), "links=", crosses_hosts=None)
