"""Memory that the allocator of a GPU holds, and nothing uses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np

from torchprof.advice.finding import Finding, Worth
from torchprof.advice.memory_accounts import memory_accounts
from torchprof.advice.registry import NotTold, rule
from torchprof.rendering.units import format_bytes
from torchprof.trace.trace import Trace
from torchprof.wording import counted

__all__ = ["fragmentation"]

LEAST: Final = 0.1
"""Part of what is reserved. An allocator that caches always has some blocks to spare."""
LEAST_BYTES: Final = 256 * 2**20
"""Of little memory a few segments of 20 MiB are a large part, and no matter."""


@rule("reserved memory that nothing uses")
def fragmentation(trace: Trace) -> Iterator[Finding]:
    """Whether the allocator reserved more from the device while much of what it had was in no block.

    What is merely unused may be of an earlier, higher peak, before the recording, and will be used again.
    """
    accounts = [account for account in memory_accounts(trace) if len(account.totals)]
    if not accounts:
        raise NotTold("no allocator of a GPU said how much it had reserved")
    for account in accounts:
        reserved, allocated = account.totals["reserved"], account.totals["allocated"]
        grew = 1 + np.flatnonzero(np.diff(reserved) > 0)
        if not len(grew):
            continue
        row = int(grew[(reserved - allocated)[grew].argmax()])
        most, unused = int(reserved[row]), int(reserved[row] - allocated[row])
        if unused < max(LEAST * most, LEAST_BYTES):
            continue
        yield Finding(
            "fragmentation",
            f"The allocator reserved more of {account.device} while {format_bytes(unused)} of its {format_bytes(most)} were in "
            "no block",
            "Set PYTORCH_ALLOC_CONF=expandable_segments:True (PYTORCH_CUDA_ALLOC_CONF before PyTorch 2.9), whose segments grow "
            "instead of being too small for the next request. torchprof.memory of a memory snapshot shows what lies between.",
            "https://docs.pytorch.org/docs/stable/notes/cuda.html#memory-management",
            Worth("peak memory", 0, unused, most, True, "what was reserved and in no block when more was reserved"),
            details=(f"it reserved more {counted(len(grew), 'time')} in the recording",),
        )
