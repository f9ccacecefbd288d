"""cuBLAS takes a workspace from PyTorch's allocator with the first matrix product of every thread, and keeps it.

cuBLASLt, which adds biases, uses the same one since PyTorch 2.11, unless ``TORCH_CUBLASLT_UNIFIED_WORKSPACE=0``: then it keeps
one of its own. (Before 2.9 it took and freed 1 MiB with every product.) Variables count as they are in this process.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from typing import Final

import numpy as np

from torchprof.estimation.overheads import Overhead
from torchprof.estimation.rules.registry import Kind, rule
from torchprof.estimation.target import Target
from torchprof.rendering.units import format_bytes
from torchprof.trace.schema import Phase, phases
from torchprof.trace.trace import Trace

WITH_BIAS: Final = ("aten::addmm", "aten::_addmm_activation")
GEMMS: Final = ("aten::mm", "aten::bmm", "aten::baddbmm", "aten::_scaled_mm", *WITH_BIAS)
KIB: Final = 2**10
MIB: Final = 2**20
SIZES: Final = "CUBLAS_WORKSPACE_CONFIG"
SIZE_OF_LT: Final = "CUBLASLT_WORKSPACE_SIZE"
UNIFIED: Final = "TORCH_CUBLASLT_UNIFIED_WORKSPACE"
NO: Final = frozenset({"0", "n", "no", "false", "off"})


@rule(
    Kind.OVERHEAD,
    *GEMMS,
    on="cuda",
    when="32 MiB for each thread that multiplies on compute capability 9.0 and newer, else 8.125 MiB; where it is set, as "
    "CUBLAS_WORKSPACE_CONFIG says",
    source="getChosenWorkspaceSize in aten/src/ATen/cuda/CublasHandlePool.cpp",
)
def cublas_workspaces(trace: Trace, target: Target) -> Overhead | None:
    first = _first_products(trace, GEMMS)
    configured = re.findall(r":(\d+):(\d+)", os.environ.get(SIZES, ""))
    if configured:
        each = sum(int(size) * KIB * int(count) for size, count in configured)
        source = f"{SIZES}: {format_bytes(each)} for each thread that multiplies"
    else:
        each = 32 * MIB if target.is_hopper else int(8.125 * MIB)
        source = (
            f"PyTorch's default of {format_bytes(each)} for each thread that multiplies, "
            f"{'on' if target.is_hopper else 'before'} Hopper"
        )
    if not first or not each:
        return None
    return Overhead("cuBLAS workspaces", each * len(first), source, reserved=True, taken_at=first)


@rule(
    Kind.OVERHEAD,
    *WITH_BIAS,
    on="cuda",
    when="TORCH_CUBLASLT_UNIFIED_WORKSPACE=0: for each thread that adds a bias, 1 MiB, or CUBLASLT_WORKSPACE_SIZE KiB",
    source="unified_cublas_and_lt_workspaces and parseCUDABlasLtWorkspaceSize in aten/src/ATen/cuda/CublasHandlePool.cpp",
)
def cublaslt_workspaces(trace: Trace, target: Target) -> Overhead | None:
    first = _first_products(trace, WITH_BIAS)
    size = os.environ.get(SIZE_OF_LT, "")
    each = int(size) * KIB if size.isdecimal() else MIB
    if os.environ.get(UNIFIED, "").lower() not in NO or not first or not each:
        return None
    source = f"{UNIFIED}=0: {format_bytes(each)} for each thread that adds a bias to a product"
    return Overhead("cuBLASLt workspaces", each * len(first), source, reserved=True, taken_at=first)


def _first_products(trace: Trace, names: Collection[str]) -> tuple[int, ...]:
    """Rows of the first such op of the calling thread, and of the first in backward, which has a thread of its own."""
    wanted = [row for row, name in enumerate(trace.strings) if name in names]
    is_product = np.isin(trace.op_names, wanted)
    in_backward = np.isin(phases(trace.ops), [Phase.BACKWARD, Phase.RECOMPUTATION])
    rows = [np.flatnonzero(is_product & mask) for mask in (~in_backward, in_backward)]
    return tuple(int(found[0]) for found in rows if len(found))
