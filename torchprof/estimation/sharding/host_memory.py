"""What a rank keeps on the host: counted by itself, as it is no memory of the device."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from torchprof.estimation.sharding.hosts import ranks_of_a_host
from torchprof.estimation.sharding.streams import IN_PINNED_MEMORY, ON_HOST, streams_of
from torchprof.rendering.units import format_bytes
from torchprof.tables.memory import Memory
from torchprof.trace.trace import Trace

__all__ = ["HostMemory", "with_host"]


@dataclass(frozen=True, slots=True)
class HostMemory:
    """What a rank holds on the host, where FSDP2 keeps its shards there (``CPUOffloadPolicy``).

    Attributes:
        bytes: the most that is held at once.
        by_category: bytes at that moment by category, such as ``"sharded parameters"``; they add up to it.
        pinned: how much of it is in pinned memory, of which PyTorch's allocator gives blocks of powers of two.
    """

    bytes: int
    by_category: dict[str, int]
    pinned: int

    def sentence(self, world_size: int) -> str:
        """What is printed of it.

        Args:
            world_size: how many ranks there are.
        """
        held = ", ".join(f"{name} {format_bytes(count)}" for name, count in self.by_category.items())
        pinned = f"; {format_bytes(self.pinned)} of it pinned, in blocks of powers of two" if self.pinned else ""
        ranks = ranks_of_a_host(world_size)
        of_all = f". {ranks} ranks on a host take {format_bytes(ranks * self.bytes)}" if ranks > 1 else ""
        return f"On the host: {format_bytes(self.bytes)}, at most ({held}{pinned}){of_all}"


def with_host(trace: Trace) -> tuple[Trace, HostMemory | None]:
    """The trace in which what is on the host is no memory of ``meta``, but of ``cpu``; and that, or None where nothing is.

    Args:
        trace: as `torchprof.estimation.sharding.streams.with_streams` gives it.
    """
    places = streams_of(trace, trace.allocations)
    on_meta = trace.allocations["device_type"] == trace.device_types.number("meta")
    on_host = on_meta & (places <= ON_HOST)
    if not on_host.any():
        return trace, None
    rows = trace.allocations.copy()
    cpu = trace.device_types.number("cpu")
    rows["device_type"][on_host] = cpu
    in_blocks = on_meta & (places == IN_PINNED_MEMORY) & (rows["bytes"] > 0)
    rows["bytes"][in_blocks] = np.exp2(np.ceil(np.log2(rows["bytes"][in_blocks]))).astype(np.int64)
    trace = replace(trace, allocations=rows)
    counted = rows.copy()
    counted["bytes"][(rows["device_type"] == cpu) & ~on_host] = 0  # what the estimate itself needs while it runs
    account = Memory.of(replace(trace, allocations=counted), "cpu")
    pinned = account.held_at_peak & (streams_of(trace, account.allocations) == IN_PINNED_MEMORY)
    return trace, HostMemory(
        account.peak.bytes,
        {name: count for name, count in account.by_category.items() if count},
        int(account.allocations["bytes"][pinned].sum()),
    )
