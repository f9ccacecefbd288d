"""Which ops, ranges and kernels are collectives, by how their names begin."""

from __future__ import annotations

from typing import Final

__all__ = ["is_collective_kernel", "is_collective_op", "is_collective_range"]

KERNELS: Final = ("nccl",)
"""Of NCCL and RCCL: ``ncclKernel_AllReduce``, since 2.19 ``ncclDevKernel_AllReduce``."""
OPS: Final = ("c10d::", "_c10d_functional", "symm_mem::")
RANGES: Final = ("gloo:", "mpi:", "ucc:")
"""What threads of a backend open while a collective of theirs runs on the CPU."""


def is_collective_kernel(name: str) -> bool:
    """Whether a kernel of this name sends between devices."""
    return name.startswith(KERNELS)


def is_collective_op(name: str) -> bool:
    """Whether an op of this name asks for a collective, or waits for one."""
    return name.startswith(OPS)


def is_collective_range(name: str) -> bool:
    """Whether a range of this name is open while a collective runs."""
    return name.startswith(RANGES)
