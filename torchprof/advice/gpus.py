"""How much faster than in float32 GPUs multiply matrices in shorter formats: ratios of the peaks in their data sheets."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from torchprof.trace.trace import Trace

__all__ = ["Formats", "formats_of"]


class Formats(NamedTuple):
    """How many times as fast as in float32 a GPU can multiply matrices.

    Attributes:
        tf32: on tensor cores that round float32 to 10 bits; 1 where it has none.
        half: in bfloat16, or float16.
        bfloat16: whether it has tensor cores for bfloat16; else for float16 only.
    """

    tf32: float
    half: float
    bfloat16: bool = True


AMPERE_OR_LATER: Final = Formats(8.0, 16.0)
"""Of an NVIDIA GPU of which only the architecture is known: the ratios of an A100, which are among the largest."""

KNOWN: Final = (
    # TFLOPS without sparsity, from NVIDIA's and AMD's data sheets: float32, TF32, half.
    ("B200", Formats(1100 / 75, 2250 / 75)),
    ("H200|H100", Formats(494.7 / 66.9, 989.4 / 66.9)),
    ("A100", Formats(156 / 19.5, 312 / 19.5)),
    ("A30", Formats(82 / 10.3, 165 / 10.3)),
    ("A40|A10", Formats(2.0, 4.0)),
    ("L40S", Formats(183 / 91.6, 362 / 91.6)),
    ("L4\\b", Formats(2.0, 4.0)),
    ("RTX [345]0", Formats(1.0, 2.0)),
    ("V100", Formats(1.0, 125 / 15.7, bfloat16=False)),
    ("T4\\b|RTX 20", Formats(1.0, 65 / 8.1, bfloat16=False)),
    ("P100|P40|P4\\b|GTX|K80", Formats(1.0, 1.0, bfloat16=False)),
    ("MI3[025]", Formats(653.7 / 163.4, 1307.4 / 163.4)),
    ("MI2", Formats(1.0, 4.0)),
)
"""By a pattern in the name of the device, the first that is found."""

NEW_KERNELS: Final = re.compile(r"ampere_|hopper_|blackwell_|sm(?:8|9|10|12)\d|cutlass_?3?x?_(?:8|9|10)\d_|cutlass_80|nvjet")
"""Names of kernels that were built for Ampere or later, and run there only."""


def formats_of(trace: Trace) -> Formats | None:
    """Of the slowest GPU of a trace whose name is known, or of what its kernels were built for; None where nothing is known."""
    devices = [name for name in trace.facts.get("devices", ()) if name]
    found = [next((formats for pattern, formats in KNOWN if re.search(pattern, name)), None) for name in devices]
    if known := [formats for formats in found if formats is not None]:
        return min(known)
    if any(NEW_KERNELS.search(name) for name in trace.strings):
        return AMPERE_OR_LATER
    return None
