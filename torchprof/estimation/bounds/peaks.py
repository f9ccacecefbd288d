"""What a GPU computes at most in each dtype: as published, or as given."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from torchprof.errors import ArgumentError, ModuleTypeError
from torchprof.trace.ceilings import PUBLISHED, Ceilings
from torchprof.wording import shown

__all__ = ["Peaks"]

TERA: Final = 10**12
ANY: Final = "any dtype"
TF32: Final = "tf32"
FLOAT32: Final = "float32"
FLOAT8: Final = "float8"


@dataclass(frozen=True, slots=True)
class Peaks:
    """FLOPs per second of a GPU.

    Attributes:
        of: whose they are, and what kind of figures, in words.
        gpu: its name in ``torchprof.GPUS``; None where that is not known.
        rates: by dtype, as in ``"bfloat16"``; of ``"any dtype"`` where they are of all.
    """

    of: str
    gpu: str | None
    rates: Mapping[str, float]

    @classmethod
    def of_gpu(cls, gpu: str | Ceilings) -> Peaks:
        """Those that are published of a GPU, or the rate that is given.

        Raises:
            ArgumentError: none are known of this GPU.
            ModuleTypeError: it is neither a name nor `Ceilings`.
        """
        if isinstance(gpu, Ceilings):
            if not 0 < gpu.flops < math.inf:
                raise ArgumentError(f"gpu={shown(gpu)} has flops={gpu.flops}: they must be FLOPs per second, more than 0")
            name = gpu.device.removesuffix(", as published")
            known = name if name in PUBLISHED else None
            # What is measured in tf32 is called "float32, tf32"; what float32 computes, it also does where it may use tf32.
            return cls(gpu.device, known, dict.fromkeys(gpu.dtype.split(", ")[-1:], gpu.flops))
        if not isinstance(gpu, str):
            raise ModuleTypeError(
                f"gpu must be the name of a GPU, such as 'H100-80GB', or torchprof.Ceilings, not {shown(gpu)}"
            )
        published = Ceilings.published(gpu)
        name = published.device.removesuffix(", as published")
        return cls(published.device, name, {dtype: rate * TERA for dtype, rate in PUBLISHED[name][1].items()})

    def rate(self, dtype: str) -> float | None:
        """FLOPs per second in a dtype; None where it is not known. Where a GPU has no tf32, that is float32."""
        others = {TF32: FLOAT32}
        if dtype.startswith(FLOAT8):  # of all formats with 8 bits
            dtype = FLOAT8
        return self.rates.get(dtype) or self.rates.get(others.get(dtype, ANY)) or self.rates.get(ANY)

    def seconds(self, flops: Mapping[str, int]) -> float:
        """The least time of these FLOPs by dtype, without those whose rate is not known."""
        return sum(count / rate for dtype, count in flops.items() if (rate := self.rate(dtype)) is not None)
