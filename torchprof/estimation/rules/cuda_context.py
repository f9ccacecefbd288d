"""What CUDA takes for itself."""

from __future__ import annotations

from typing import Final

from torchprof.estimation.overheads import Overhead
from torchprof.estimation.rules.registry import Kind, rule
from torchprof.estimation.target import Target
from torchprof.trace.trace import Trace

CONTEXT: Final = 2**29


@rule(
    Kind.OVERHEAD,
    on="cuda",
    when="always",
    source="experience: nvidia-smi shows 0.3 to 0.6 GiB for a process that has made one tensor, by driver and GPU",
)
def cuda_context(trace: Trace, target: Target) -> Overhead:
    return Overhead("CUDA context", CONTEXT, "experience: 0.3 to 0.6 GiB, by driver and GPU", reserved=False)
