"""What NCCL takes of a GPU for itself: buffers of every channel, for each group of ranks that communicates."""

from __future__ import annotations

from typing import Final

from torchprof.estimation.overheads import Overhead

__all__ = ["nccl_buffers"]

CONNECTION: Final = (512 * 8 * 8 * 16) + (640 * 120 * 8 * 8) + 4 * 2**20
"""Bytes of the buffers of one connection: those of the protocols LL, LL128 and Simple, as NCCL's ``init.cc`` sizes them."""
CHANNELS: Final = 2
"""The fewest that NCCL uses."""
TAKEN: Final = 688 * 2**20
MOST: Final = 1060 * 2**20


def nccl_buffers(groups: int) -> Overhead | None:
    """The memory of so many communicators; None for none. What each takes depends on the links between the GPUs.

    Example:
        >>> nccl_buffers(2).bytes == 2 * nccl_buffers(1).bytes
        True
    """
    if not groups:
        return None
    which = "1 group of ranks" if groups == 1 else f"{groups} groups of ranks"
    return Overhead(
        "NCCL buffers",
        groups * TAKEN,
        f"what users measured for {which}, of each 544 or 688 MiB on four A100 with NVLink (NVIDIA/nccl#964), up to 1.06 GB on "
        "eight H100 (NVIDIA/nccl#1685); at least two channels of NCCL's default sizes (DEFAULT_BUFFSIZE in its init.cc), as "
        "over PCIe. NCCL_MAX_NCHANNELS and NCCL_BUFFSIZE change it",
        reserved=False,
        at_least=groups * CHANNELS * CONNECTION,
        at_most=groups * MOST,
    )
