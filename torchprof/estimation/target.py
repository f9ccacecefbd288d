"""What an estimate is for: the device, as far as it is known, and whether the model is compiled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from torchprof.allocator.gpus import COMPUTE_CAPABILITY, MULTIPROCESSORS

__all__ = ["Device", "Target"]

Device = Literal["cpu", "cuda"]

AMPERE: Final = (8, 0)
HOPPER: Final = (9, 0)


@dataclass(frozen=True, slots=True)
class Target:
    """What an estimate is for.

    Attributes:
        device: ``"cpu"`` or ``"cuda"``.
        gpu: its name in ``torchprof.GPUS``, or None where only its memory is known, or nothing.
        compiled: whether ``torch.compile`` is predicted.
        memory: bytes that it has, where they are known.
    """

    device: Device
    gpu: str | None = None
    compiled: bool = False
    memory: int | None = None

    @property
    def capability(self) -> tuple[int, int]:
        """The compute capability, such as ``(9, 0)``; where the GPU is not known, that of an A100."""
        return AMPERE if self.gpu is None else COMPUTE_CAPABILITY[self.gpu]

    @property
    def multiprocessors(self) -> int:
        """How many there are; where the GPU is not known, as many as of an A100."""
        return MULTIPROCESSORS[self.gpu or "A100-80GB"]

    @property
    def threads_per_multiprocessor(self) -> int:
        """How many run at once on one, as NVIDIA's CUDA C++ programming guide lists it by compute capability."""
        return {(7, 5): 1024, (8, 6): 1536, (8, 9): 1536}.get(self.capability, 2048)

    @property
    def has_tf32(self) -> bool:
        """Whether tensor cores take float32: from Ampere on, and where the GPU is not known."""
        return self.capability >= AMPERE

    @property
    def is_hopper(self) -> bool:
        """Whether it is a Hopper GPU or a newer one; False where the GPU is not known."""
        return self.capability >= HOPPER
