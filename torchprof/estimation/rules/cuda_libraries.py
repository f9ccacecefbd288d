"""What is not known of CUDA's libraries beside cuBLAS and cuDNN."""

from __future__ import annotations

from typing import Final

from torchprof.estimation.rules.registry import Kind, rule
from torchprof.estimation.target import Target
from torchprof.trace.trace import Trace

SUBJECTS: Final = tuple(
    f"aten::{name}"
    for name in "_fft_ _linalg_ linalg_cholesky linalg_eig linalg_householder linalg_inv linalg_ldl linalg_lstsq linalg_lu "
    "linalg_qr sort topk unique _unique".split()
)
"""How the names of these ops begin."""


@rule(
    Kind.NOTE,
    *SUBJECTS,
    on="cuda",
    when="the program calls such ops",
    source="workspaces from PyTorch's allocator in aten/src/ATen/native/cuda/linalg/BatchLinearAlgebraLib.cpp (cuSOLVER), "
    "SpectralOps.cpp (cuFFT) and aten/src/ATen/cuda/cub.cuh (CUB): the libraries tell their size on a GPU",
)
def cuda_library_workspaces(trace: Trace, target: Target) -> str | None:
    names = {trace.strings[row] for row in set(trace.op_names.tolist())}
    found = sorted(name for name in names if name.startswith(SUBJECTS))
    return f"workspaces of cuSOLVER, cuFFT or CUB in {', '.join(found)}: only a GPU can tell" if found else None
