"""Memory that is not the program's own: workspaces that libraries keep, and what CUDA takes for itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from torchprof.rendering.units import format_bytes
from torchprof.trace.schema import Phase, Rows, phases
from torchprof.trace.trace import Trace

__all__ = ["Overhead", "overheads_of", "with_overheads"]

HOPPER: Final = ("H100", "H200", "B200")
CONTEXT: Final = 2**29
GEMMS: Final = frozenset({"aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "aten::_scaled_mm"})


@dataclass(frozen=True, slots=True)
class Overhead:
    """Memory that is not the program's own.

    Attributes:
        name, bytes, source: what it is, how much, and where that is known from.
        reserved: whether it comes from PyTorch's allocator, and is part of what is allocated and reserved.
    """

    name: str
    bytes: int
    source: str
    reserved: bool


def overheads_of(trace: Trace, capacity: int | str | None) -> tuple[Overhead, ...]:
    hopper = isinstance(capacity, str) and capacity.startswith(HOPPER)
    each = 32 * 2**20 if hopper else int(8.125 * 2**20)
    source = f"PyTorch's default of {format_bytes(each)} for each thread that multiplies, {'on' if hopper else 'before'} Hopper"
    cublas = each * len(_first_gemms(trace))
    found = [Overhead("cuBLAS workspaces", cublas, source, reserved=True)] if cublas else []
    found.append(Overhead("CUDA context", CONTEXT, "experience: 0.3 to 0.6 GiB, by driver and GPU", reserved=False))
    return tuple(found)


def _first_gemms(trace: Trace) -> list[int]:
    """Rows of the first matrix product of the calling thread, and of the first in backward, which has a thread of its own."""
    wanted = [row for row, name in enumerate(trace.strings) if name in GEMMS]
    is_gemm = np.isin(trace.op_names, wanted)
    in_backward = np.isin(phases(trace.ops), [Phase.BACKWARD, Phase.RECOMPUTATION])
    rows = [np.flatnonzero(is_gemm & mask) for mask in (~in_backward, in_backward)]
    return [int(found[0]) for found in rows if len(found)]


def with_overheads(trace: Trace, allocations: Rows, overheads: Sequence[Overhead]) -> Rows:
    """The allocations, and among them the workspaces that cuBLAS takes at first use and keeps."""
    gemms = _first_gemms(trace)
    extra = np.zeros(len(gemms), dtype=allocations.dtype)
    total = sum(overhead.bytes for overhead in overheads if overhead.reserved)
    for row, op in enumerate(gemms):
        extra[row]["start"], extra[row]["end"], extra[row]["bytes"] = trace.ops["start"][op], -1, total // len(gemms)
        extra[row]["device_type"], extra[row]["device_index"] = allocations[0]["device_type"], allocations[0]["device_index"]
    return np.concatenate([allocations, extra])
