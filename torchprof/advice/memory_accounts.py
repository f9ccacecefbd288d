"""The accounts of memory that rules look at: one for each device of a trace."""

from __future__ import annotations

from torchprof.advice.finding import Worth
from torchprof.advice.registry import NotTold
from torchprof.analysis.memory.account import MemoryAccount
from torchprof.analysis.memory.devices import devices_by_memory
from torchprof.errors import ArgumentError
from torchprof.trace.trace import Trace

__all__ = ["memory_accounts", "peak_worth"]


def memory_accounts(trace: Trace) -> list[MemoryAccount]:
    """The account of every device but ``meta``, whose tensors take no memory: first of that which holds the parameters.

    Raises:
        NotTold: the trace has no single allocations.
    """
    try:
        found = [MemoryAccount.of(trace, device) for device in devices_by_memory(trace) if device != "meta"]
        return found or [MemoryAccount.of(trace)]
    except ArgumentError as error:
        raise NotTold(f"the {str(error).partition(':')[0]}") from error


def peak_worth(account: MemoryAccount, high: float, basis: str, *, low: float = 0, measured: bool = True) -> Worth:
    """So many bytes of the peak of a device, at most all of it."""
    peak = account.peak.bytes
    most = min(round(high), peak)
    return Worth("peak memory", min(round(low), most), most, peak, measured, basis)
