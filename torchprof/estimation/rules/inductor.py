"""What is not known of compiled models on CUDA."""

from __future__ import annotations

from torchprof.estimation.rules.registry import Kind, rule
from torchprof.estimation.target import Target
from torchprof.trace.trace import Trace


@rule(
    Kind.NOTE,
    on="cuda",
    when="compile=True",
    source="torch/_inductor/codegen: Triton's kernels fuse and order otherwise than those in C++",
)
def inductor_for_cuda(trace: Trace, target: Target) -> str | None:
    return "what Inductor fuses otherwise for CUDA: this is what it materializes on the CPU" if target.compiled else None
