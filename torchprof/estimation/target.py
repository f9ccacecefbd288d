"""What an estimate is for: the device, as far as it is known, and whether the model is compiled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from torchprof.allocator.gpus import COMPUTE_CAPABILITY, MULTIPROCESSORS
from torchprof.estimation.gpu_here import Gpu, gpu_here

__all__ = ["Device", "Target"]

Device = Literal["cpu", "cuda"]

AMPERE: Final = (8, 0)
HOPPER: Final = (9, 0)
ASSUMED: Final = "A100-80GB"
"""The GPU that is taken where none is known."""


@dataclass(frozen=True, slots=True)
class Target:
    """What an estimate is for.

    Attributes:
        device: ``"cpu"`` or ``"cuda"``.
        gpu: its name in ``torchprof.GPUS``, or None where only its memory is known, or nothing.
        compiled: whether ``torch.compile`` is predicted.
        memory: bytes that it has, where they are known.
        here: the GPU of this machine, where it is that one.
    """

    device: Device
    gpu: str | None = None
    compiled: bool = False
    memory: int | None = None
    here: Gpu | None = None

    @classmethod
    def of(cls, device: Device, gpu: str | None, limit: int | None, compiled: bool) -> Target:
        """The GPU that a capacity names; where nothing is said, that of this machine, if there is one.

        Args:
            device, compiled: as for `torchprof.estimate`.
            gpu: its name in ``torchprof.GPUS``, if one is named.
            limit: the bytes that it has, if they are given.
        """
        here = gpu_here() if device == "cuda" and limit is None else None
        if here is not None:
            return cls(device, here.known_as, compiled, here.memory, here)
        return cls(device, gpu, compiled, limit)

    @property
    def is_known(self) -> bool:
        """Whether it is known which GPU it is: what it does is that one's."""
        return self.gpu is not None or self.here is not None

    @property
    def name(self) -> str | None:
        """Of the GPU: as the driver gives it, or in ``torchprof.GPUS``; None on the CPU."""
        if self.device == "cpu":
            return None
        return self.here.name if self.here is not None else self.gpu or ASSUMED

    @property
    def why(self) -> str | None:
        """Why it is this GPU, in words; None on the CPU."""
        if self.device == "cpu":
            return None
        if self.here is not None:
            return "it is in this machine, and capacity= names none"
        if self.gpu is not None:
            return "capacity= names it"
        return "capacity= names none" if self.memory is not None else "capacity= names none, and none is found in this machine"

    @property
    def capability(self) -> tuple[int, int]:
        """The compute capability, such as ``(9, 0)``; where the GPU is not known, that of an A100."""
        return self.here.capability if self.here is not None else COMPUTE_CAPABILITY[self.gpu or ASSUMED]

    @property
    def multiprocessors(self) -> int:
        """How many there are; where the GPU is not known, as many as of an A100."""
        return self.here.multiprocessors if self.here is not None else MULTIPROCESSORS[self.gpu or ASSUMED]

    @property
    def threads_per_multiprocessor(self) -> int:
        """How many run at once on one, as NVIDIA's CUDA C++ programming guide lists it by compute capability."""
        return {(7, 5): 1024, (8, 6): 1536, (8, 9): 1536, (12, 0): 1536, (12, 1): 1536}.get(self.capability, 2048)

    @property
    def has_tf32(self) -> bool:
        """Whether tensor cores take float32: from Ampere on, and where the GPU is not known."""
        return self.capability >= AMPERE

    @property
    def is_hopper(self) -> bool:
        """Whether it is a Hopper GPU or a newer one; False where the GPU is not known."""
        return self.capability >= HOPPER
