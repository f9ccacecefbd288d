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
            NVLink from the switches of NVLink 4 on, and of InfiniBand from HDR on
            (https://docs.nvidia.com/networking/display/sharpltsv391/using+nvidia+sharp+with+nvidia+nccl).
    """

    name: str
    bandwidth: float
    source: str
    crosses_hosts: bool | None
    reduces: bool = False


def _table(*links: Link) -> dict[str, Link]:
    return {link.name: link for link in links}


def _nvlink(version: int, both: int, source: str, *, reduces: bool) -> Link:
    told = f"{both:,} GB/s of a GPU, of both directions: {source}"
    return Link(f"NVLink {version}", both / 2 * GIGABYTE, told, crosses_hosts=False, reduces=reduces)


def _pcie(version: int, both: int, source: str) -> Link:
    told = f"{both} GB/s of 16 lanes, of both directions: {source}"
    return Link(f"PCIe {version}", both / 2 * GIGABYTE, told, crosses_hosts=False)


def _network(name: str, gigabits: int, source: str, *, reduces: bool = False) -> Link:
    told = f"{gigabits} Gb/s, in each direction: {source}"
    return Link(name, gigabits * GIGABIT, told, crosses_hosts=True, reduces=reduces)


NVLINK: Final = "https://www.nvidia.com/en-us/data-center/nvlink/"
NETWORKS: Final = "https://docs.nvidia.com/networking/display/"
DGX: Final = (
    "https://docs.nvidia.com/dgx-basepod/reference-architecture-infrastructure-foundation-enterprise-ai/latest/"
    "core-components.html"
)
"""NVIDIA's page of its machines."""
NOT_FOUND: Final = "general knowledge; no page of the vendor was found that says it"

LINKS: Final[Mapping[str, Link]] = _table(
    _nvlink(2, 300, f"V100, six links of 50; {NOT_FOUND}", reduces=False),
    _nvlink(3, 600, "A100, https://www.nvidia.com/de-de/data-center/nvlink/", reduces=False),
    _nvlink(
        4,
        900,
        "H200 with SXM, in NVIDIA's own submission to MLPerf, https://raw.githubusercontent.com/mlcommons/"
        "inference_results_v4.1/main/closed/NVIDIA/systems/H200-SXM-141GBx8_TRT_MaxQ.json",
        reduces=True,
    ),
    _nvlink(5, 1800, f"Blackwell, {NVLINK}", reduces=True),
    _pcie(3, 32, f"a quarter of PCIe 5; {NOT_FOUND}"),
    _pcie(4, 64, "a tenth of the 600 of A100, rounded, https://www.nvidia.com/de-de/data-center/nvlink/"),
    _pcie(5, 128, f"a fourteenth of the 1,800 of Blackwell, rounded, {NVLINK}"),
    _network("InfiniBand EDR", 100, f"ConnectX-5 has EDR, {NETWORKS}OFED/Introduction; its rate is {NOT_FOUND}"),
    _network("InfiniBand HDR", 200, f"ConnectX-6 has HDR, {NETWORKS}OFED/Introduction; its rate is {NOT_FOUND}", reduces=True),
    _network("InfiniBand NDR", 400, f"ConnectX-7, {NETWORKS}ConnectX7VPI/Introduction", reduces=True),
    _network("InfiniBand XDR", 800, f"ConnectX-8, {NETWORKS}connectx8supernic/introduction", reduces=True),
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
"""Between hosts, one port for each GPU, as in NVIDIA's own machines. DGX H100, DGX H200 and DGX B200 have eight single ports of
ConnectX-7 for eight GPUs, as `DGX` says. Of DGX A100, with eight ports of ConnectX-6, and of DGX-2, with V100 and one port for
two, no page of the vendor was found. Of other GPUs there is no such machine."""


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
