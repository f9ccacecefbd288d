"""cuBLAS takes a workspace from PyTorch's allocator with the first matrix product of every thread, and keeps it.

cuBLASLt, which adds biases, keeps one of its own in PyTorch 2.11, and uses that of cuBLAS since 2.12;
``TORCH_CUBLASLT_UNIFIED_WORKSPACE`` says otherwise, 1 or 0. Variables count as they are in this process.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from typing import Final

import numpy as np
import torch

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
YES: Final = frozenset({"1", "y", "yes", "true", "on"})
UNIFIED_SINCE: Final = (2, 12)
"""The version of PyTorch; one that was built from 2.11 was seen to have two workspaces on an H200."""


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
    when="in PyTorch 2.11, and where TORCH_CUBLASLT_UNIFIED_WORKSPACE=0: for each thread that adds a bias, 1 MiB, or "
    "CUBLASLT_WORKSPACE_SIZE KiB",
    source="unified_cublas_and_lt_workspaces and parseCUDABlasLtWorkspaceSize in aten/src/ATen/cuda/CublasHandlePool.cpp; "
    "histories of an H200 under 2.11; pytorch/pytorch#168175 and #175879, which made it one",
)
def cublaslt_workspaces(trace: Trace, target: Target) -> Overhead | None:
    first = _first_products(trace, WITH_BIAS)
    size = os.environ.get(SIZE_OF_LT, "")
    each = int(size) * KIB if size.isdecimal() else MIB
    if _is_unified() or not first or not each:
        return None
    source = f"{format_bytes(each)} for each thread that adds a bias to a product, where it does not share that of cuBLAS"
    return Overhead("cuBLASLt workspaces", each * len(first), source, reserved=True, taken_at=first)


def _is_unified() -> bool:
    """Whether cuBLASLt works in the workspace of cuBLAS."""
    said = os.environ.get(UNIFIED, "").lower()
    by_default = tuple(map(int, re.findall(r"\d+", torch.__version__)[:2])) >= UNIFIED_SINCE
    return said not in NO and (by_default or said in YES)


def _first_products(trace: Trace, names: Collection[str]) -> tuple[int, ...]:
    """Rows of the first such op of the calling thread, and of the first in backward, which has a thread of its own."""
    wanted = [row for row, name in enumerate(trace.strings) if name in names]
    is_product = np.isin(trace.op_names, wanted)
    in_backward = np.isin(phases(trace.ops), [Phase.BACKWARD, Phase.RECOMPUTATION])
    rows = [np.flatnonzero(is_product & mask) for mask in (~in_backward, in_backward)]
    return tuple(int(found[0]) for found in rows if len(found))
