"""What ranks send to each other to gather their traces: a few numbers of each to all, and bytes of each to one.

Everything is said by collectives of the group, which every rank calls in the same order whatever it has to say.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import torch
from torch import distributed as dist

__all__ = ["Exchange"]

AT_ONCE: Final = 2**26
"""Bytes that arrive at the destination at once, of all ranks together."""
LEAST: Final = 2**16
"""Bytes of a rank at once, at least."""


class Exchange:
    """The ranks of a process group, and one of them to which all send.

    Args:
        group: of ``torch.distributed``; None: all ranks.
        destination: the number of a rank of the whole program.

    Attributes:
        ranks: of the group, by number in the whole program.
        is_destination: whether this process is the one to which all send.
    """

    def __init__(self, group: Any, destination: int) -> None:
        self._group, self._destination = group, destination
        self.ranks = [int(rank) for rank in dist.get_process_group_ranks(group)]
        self.is_destination = dist.get_rank() == destination
        self._device = _device_of(group)

    def numbers(self, mine: Sequence[int]) -> list[list[int]]:
        """Tell all ranks some numbers, as many as the others do; the numbers of every rank."""
        sent = torch.tensor(mine, dtype=torch.int64, device=self._device)
        received = [torch.empty_like(sent) for _ in self.ranks]
        dist.all_gather(received, sent, group=self._group)
        return [each.tolist() for each in received]

    def send(self, content: bytes, sizes: Sequence[int]) -> list[bytearray]:
        """Send bytes to the destination, which gets those of every rank; the others get nothing.

        Args:
            sizes: how many bytes every rank sends.
        """
        found = [bytearray(size) for size in sizes] if self.is_destination else []
        at_once = max(LEAST, AT_ONCE // len(self.ranks))
        for begin in range(0, max(sizes), at_once):
            width = min(at_once, max(sizes) - begin)
            part = np.zeros(width, dtype=np.uint8)
            mine = np.frombuffer(content, dtype=np.uint8)[begin : begin + width]
            part[: len(mine)] = mine
            sent = torch.from_numpy(part).to(self._device)
            received = [torch.empty_like(sent) for _ in self.ranks] if self.is_destination else None
            dist.gather(sent, received, dst=self._destination, group=self._group)
            for all_of_it, each in zip(found, received or (), strict=True):
                came = each.cpu().numpy()[: max(0, len(all_of_it) - begin)]
                all_of_it[begin : begin + len(came)] = came.tobytes()
        return found


def _device_of(group: Any) -> torch.device:
    """Where tensors are that the group sends: the CPU, where one of its backends can, or else the current device of another."""
    kinds = [each.partition(":")[0] for each in str(dist.get_backend_config(group)).split(",")]
    if "cpu" in kinds:
        return torch.device("cpu")
    return torch.device(kinds[0], torch.get_device_module(kinds[0]).current_device())
