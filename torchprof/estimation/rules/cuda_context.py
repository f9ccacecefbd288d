"""What CUDA takes for itself: code of kernels, stacks, and what libraries hold, by GPU, driver and version.

PyTorch's messages when memory runs out tell it: what the process has in use, less what PyTorch has allocated and what it has
reserved beside that. Messages of processes that also run NCCL, which takes more, are left out. On an H200 it was measured
too (driver 580, CUDA 13.0): 648,871,936 bytes with the first tensor, 718,077,952 with cuBLAS, 726,466,560 with cuDNN.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from torchprof.estimation.overheads import Overhead
from torchprof.estimation.rules.registry import Kind, rule
from torchprof.estimation.target import Target
from torchprof.trace.trace import Trace

GIB: Final = 2**30
ANY: Final = (0.24, 0.84)
ASSUMED: Final = 0.5
"""Of any GPU, and where it is not known: in GiB, the least and the most that was seen, and what is taken."""
SEEN: Final[Mapping[str, tuple[float, float]]] = {
    "T4": (0.11, 0.16),
    "V100-16GB": (0.37, 0.39),
    "V100-32GB": (0.37, 0.39),
    "RTX 3090": (0.25, 0.51),
    "RTX 4090": (0.25, 0.51),
    "A10": (0.21, 0.49),
    "L4": (0.21, 0.49),
    "A100-40GB": (0.48, 0.53),
    "A100-80GB": (0.48, 0.53),
    "H200": (0.51, 0.68),
}
"""Of these GPUs, the least and the most; where several messages are known. The most is taken."""


@rule(
    Kind.OVERHEAD,
    on="cuda",
    when="always: the most that was seen on the GPU; where no messages of it are known, 0.5 GiB",
    source="out-of-memory messages of PyTorch 2.1 and newer that users posted, such as in pytorch/pytorch#16417 (0.51 GiB), "
    "FoundationVision/GenerateU#10 (0.14 GiB) and murong-xu/CADS#4 (0.30 GiB)",
)
def cuda_context(trace: Trace, target: Target) -> Overhead:
    seen = SEEN.get(target.gpu or "")
    least, most = seen or ANY
    taken = most if seen else ASSUMED
    where = f"on {target.gpu}" if seen else "on GPUs of all kinds"
    return Overhead(
        "CUDA context",
        int(taken * GIB),
        f"out-of-memory messages {where}: {least} to {most} GiB, by driver and version",
        reserved=False,
        at_least=int(least * GIB),
        at_most=int(most * GIB),
    )
