"""The best rates of a device: the ceilings of a roofline, which `torchprof.ceilings` measures.

The roofline model (Williams, Waterman, Patterson: "Roofline: an insightful visual performance model for multicore
architectures", 2009) bounds the rate of an op by ``min(flops, intensity * bytes)``, where intensity is its FLOPs per byte.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from torchprof.errors import ArgumentError
from torchprof.wording import meant, nearest, shown, written_so

__all__ = ["PUBLISHED", "Ceilings"]

TERA: Final = 10**12
GIGA: Final = 10**9

PUBLISHED: Final[Mapping[str, tuple[int, Mapping[str, float]]]] = {
    "T4": (320, {"float32": 8.1, "float16": 65}),
    "V100-16GB": (900, {"float32": 15.7, "float16": 125}),
    "V100-32GB": (900, {"float32": 15.7, "float16": 125}),
    "RTX 3090": (936, {"float32": 35.6, "tf32": 35.6, "float16": 71, "bfloat16": 71}),
    "RTX 4090": (1008, {"float32": 82.6, "tf32": 82.6, "float16": 165.2, "bfloat16": 165.2, "float8": 330.3}),
    "A10": (600, {"float32": 31.2, "tf32": 62.5, "float16": 125, "bfloat16": 125}),
    "L4": (300, {"float32": 30.3, "tf32": 60, "float16": 121, "bfloat16": 121, "float8": 242.5}),
    "L40S": (864, {"float32": 91.6, "tf32": 183, "float16": 362, "bfloat16": 362, "float8": 733}),
    "A100-40GB": (1555, {"float32": 19.5, "tf32": 156, "float16": 312, "bfloat16": 312}),
    "A100-80GB": (2039, {"float32": 19.5, "tf32": 156, "float16": 312, "bfloat16": 312}),
    "H100-80GB": (3350, {"float32": 67, "tf32": 494.5, "float16": 989, "bfloat16": 989, "float8": 1979}),
    "H200": (4800, {"float32": 67, "tf32": 494.5, "float16": 989, "bfloat16": 989, "float8": 1979}),
    "B200": (8000, {"float32": 80, "tf32": 1100, "float16": 2250, "bfloat16": 2250, "float8": 4500}),
}
"""GB per second, and TFLOP/s by dtype, of GPUs as NVIDIA's data sheets and whitepapers give them: dense products, summed up in
float32; of V100, A100, H100 and H200 those with SXM; of B200 that in HGX B200."""


@dataclass(frozen=True, slots=True)
class Ceilings:
    """The best rates of one device: measured, published, or your own figures.

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

    @classmethod
    def published(cls, gpu: str, dtype: str = "float32") -> Ceilings:
        """Those that NVIDIA publishes for a GPU, which no program reaches: what `torchprof.ceilings` measures is less.

        Args:
            gpu: such as ``"H100-80GB"``.
            dtype: of the matrices: ``"float32"``, ``"tf32"``, ``"float16"``, ``"bfloat16"`` or ``"float8"``.

        Raises:
            ArgumentError: none are known of this GPU, or of this dtype.

        Example:
            >>> torchprof.report(prof.trace, "report.html", ceilings=torchprof.Ceilings.published("H100-80GB", "bfloat16"))
        """
        name = written_so(gpu, PUBLISHED) if isinstance(gpu, str) else None
        if name is None:
            near = meant(gpu, PUBLISHED) if isinstance(gpu, str) else ""
            others = f": use one of {', '.join(PUBLISHED)}, or torchprof.Ceilings with rates of your own"
            raise ArgumentError(f"gpu={shown(gpu)} is none whose rates are known here{near or others}")
        bandwidth, rates = PUBLISHED[name]
        if not isinstance(dtype, str) or dtype not in rates:
            nearer = nearest(dtype, rates) if isinstance(dtype, str) else None
            others = f"did you mean {nearer!r}?" if nearer else f"use one of {', '.join(map(repr, rates))}"
            raise ArgumentError(f"dtype={shown(dtype)} has no published rate on {name}: {others}")
        return cls(f"{name}, as published", dtype, 0, rates[dtype] * TERA, bandwidth * GIGA)

    def attainable(self, intensity: float) -> float:
        """The most FLOPs per second of an op with this many FLOPs per byte."""
        return min(self.flops, intensity * self.bytes)

    def reached(self, flop_rate: float | None, byte_rate: float | None, intensity: float | None) -> float | None:
        """A rate as a share of what is attainable; of the byte rate where there are no FLOPs. Above 1 where caches help."""
        if flop_rate is not None and intensity is not None:
            return flop_rate / self.attainable(intensity)
        return byte_rate / self.bytes if byte_rate is not None else None
