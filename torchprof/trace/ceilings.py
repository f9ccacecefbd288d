"""The best rates of a device: the ceilings of a roofline, which `torchprof.ceilings` measures.

The roofline model (Williams, Waterman, Patterson: "Roofline: an insightful visual performance model for multicore
architectures", 2009) bounds the rate of an op by ``min(flops, intensity * bytes)``, where intensity is its FLOPs per byte.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Ceilings"]


@dataclass(frozen=True, slots=True)
class Ceilings:
    """The best rates measured on one device.

    Attributes:
        device: its name.
        dtype: dtype of the matrices that were multiplied, as in ``float32``.
        threads: threads of PyTorch, where the device is the CPU; 0 elsewhere.
        flops: FLOPs per second of a large matrix product.
        bytes: bytes per second, read and written, of a large copy.
    """

    device: str
    dtype: str
    threads: int
    flops: float
    bytes: float

    def attainable(self, intensity: float) -> float:
        """The most FLOPs per second of an op with this many FLOPs per byte."""
        return min(self.flops, intensity * self.bytes)

    def reached(self, flop_rate: float | None, byte_rate: float | None, intensity: float | None) -> float | None:
        """A rate as a share of what is attainable; of the byte rate where there are no FLOPs. Above 1 where caches help."""
        if flop_rate is not None and intensity is not None:
            return flop_rate / self.attainable(intensity)
        return byte_rate / self.bytes if byte_rate is not None else None
