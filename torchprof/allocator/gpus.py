"""The memory, the compute capability and the multiprocessors of known GPUs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from torchprof.allocator.settings import LARGEST
from torchprof.arguments import is_int
from torchprof.errors import ArgumentError
from torchprof.sizes import bytes_of
from torchprof.wording import meant, shown, written_so

__all__ = ["COMPUTE_CAPABILITY", "GPUS", "MULTIPROCESSORS", "capacity_of", "gpu_named"]

GIB: Final = 2**30

GPUS: Final[Mapping[str, int]] = {
    name: int(gib * GIB)
    for name, gib in {
        "T4": 14.5,
        "V100-16GB": 15.7,
        "V100-32GB": 31.7,
        "RTX 3090": 23.6,
        "RTX 4090": 23.6,
        "A10": 21.99,
        "L4": 22.0,
        "L40S": 44.3,
        "A100-40GB": 39.3,
        "A100-80GB": 79.1,
        "H100-80GB": 79.1,
        "H200": 139.8,
        "B200": 178.3,
    }.items()
}
"""Bytes of memory that known GPUs report, rounded down to a tenth of a GiB, or less: less than the name says."""

COMPUTE_CAPABILITY: Final[Mapping[str, tuple[int, int]]] = {
    "T4": (7, 5),
    "V100-16GB": (7, 0),
    "V100-32GB": (7, 0),
    "RTX 3090": (8, 6),
    "RTX 4090": (8, 9),
    "A10": (8, 6),
    "L4": (8, 9),
    "L40S": (8, 9),
    "A100-40GB": (8, 0),
    "A100-80GB": (8, 0),
    "H100-80GB": (9, 0),
    "H200": (9, 0),
    "B200": (10, 0),
}
"""Of the same GPUs, as NVIDIA's table of CUDA GPUs gives it."""

MULTIPROCESSORS: Final[Mapping[str, int]] = {
    "T4": 40,
    "V100-16GB": 80,
    "V100-32GB": 80,
    "RTX 3090": 82,
    "RTX 4090": 128,
    "A10": 72,
    "L4": 58,
    "L40S": 142,
    "A100-40GB": 108,
    "A100-80GB": 108,
    "H100-80GB": 132,
    "H200": 132,
    "B200": 148,
}
"""Of the same GPUs, as NVIDIA's architecture whitepapers and data sheets give them; of H100 and H200, those with SXM."""


def capacity_of(capacity: Any, device: str = "cuda") -> int:
    """Bytes, given as such, as a size such as ``"40GiB"``, or as the name of a GPU.

    Args:
        device: whose memory it is: that of a GPU is none of a CPU's.

    Raises:
        ArgumentError: the GPU is unknown, or it is no number of bytes.
    """
    count: Any = bytes_of(capacity) if isinstance(capacity, str) else capacity
    if isinstance(capacity, str) and count is None and device == "cpu":
        raise ArgumentError(
            f"capacity={shown(capacity)} is no size, and a GPU says nothing of device='cpu': give bytes, or memory such as "
            "'64GiB', or device='cuda'"
        )
    if (name := gpu_named(capacity)) is not None:
        return GPUS[name]
    if isinstance(capacity, str) and count is None:
        near = meant(capacity, GPUS) or f": give bytes, memory such as '40GiB', or one of {', '.join(GPUS)}"
        raise ArgumentError(f"capacity={shown(capacity)} is no known GPU and no size{near}")
    if not is_int(count, 1, LARGEST):
        raise ArgumentError(
            f"capacity={shown(capacity)} must be a positive int of bytes, at most 1 PiB, memory such as '40GiB', or a GPU such "
            "as 'A100-80GB'"
        )
    return int(count)


def gpu_named(capacity: Any) -> str | None:
    """The name in ``GPUS`` of the GPU that a capacity names; None where it names none.

    Example:
        >>> gpu_named("t4"), gpu_named("rtx-4090"), gpu_named("40GiB")
        ('T4', 'RTX 4090', None)
    """
    return written_so(capacity, GPUS) if isinstance(capacity, str) else None
