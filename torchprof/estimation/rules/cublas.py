"""cuBLAS takes a workspace from PyTorch's allocator with the first matrix product of every thread, and keeps it."""

from __future__ import annotations

from typing import Final

import numpy as np

from torchprof.estimation.overheads import Overhead
from torchprof.estimation.rules.registry import Kind, rule
from torchprof.estimation.target import Target
from torchprof.rendering.units import format_bytes
from torchprof.trace.schema import Phase, phases
from torchprof.trace.trace import Trace

GEMMS: Final = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "aten::_scaled_mm")
MIB: Final = 2**20


@rule(
    Kind.OVERHEAD,
    *GEMMS,
    on="cuda",
    when="32 MiB for each thread that multiplies on compute capability 9.0 and newer, else 8.125 MiB",
    source="getChosenWorkspaceSize in aten/src/ATen/cuda/CublasHandlePool.cpp",
)
def cublas_workspaces(trace: Trace, target: Target) -> Overhead | None:
    each = 32 * MIB if target.is_hopper else int(8.125 * MIB)
    source = (
        f"PyTorch's default of {format_bytes(each)} for each thread that multiplies, "
        f"{'on' if target.is_hopper else 'before'} Hopper"
    )
    first = _first_products(trace)
    return Overhead("cuBLAS workspaces", each * len(first), source, reserved=True, taken_at=first) if first else None


def _first_products(trace: Trace) -> tuple[int, ...]:
    """Rows of the first matrix product of the calling thread, and of the first in backward, which has a thread of its own."""
    wanted = [row for row, name in enumerate(trace.strings) if name in GEMMS]
    is_product = np.isin(trace.op_names, wanted)
    in_backward = np.isin(phases(trace.ops), [Phase.BACKWARD, Phase.RECOMPUTATION])
    rows = [np.flatnonzero(is_product & mask) for mask in (~in_backward, in_backward)]
    return tuple(int(found[0]) for found in rows if len(found))
