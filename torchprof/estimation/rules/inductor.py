"""Compiled models for which Inductor could not write code for CUDA."""

from __future__ import annotations

from torchprof.estimation.fake.callers import remarked
from torchprof.estimation.fake.inductor_for_cuda import FOR_THE_CPU, NOT_COMPILED
from torchprof.estimation.rules.registry import Kind, rule
from torchprof.estimation.target import Target
from torchprof.trace.trace import Trace


@rule(
    Kind.NOTE,
    on="cuda",
    when="compile=True, and Inductor failed to write code for CUDA on this machine: its code for the CPU is taken",
    source="torch/_inductor/codegen: Triton's kernels fuse and order otherwise than those in C++",
)
def inductor_for_cuda(trace: Trace, target: Target) -> str | None:
    if FOR_THE_CPU not in trace.strings:
        return None
    return "what Inductor fuses otherwise for CUDA, for which it could not write code: this is what it materializes on the CPU"


@rule(
    Kind.NOTE,
    on="cuda",
    when="compile=True, and the GPU is older than Ampere: no function is compiled that is given bfloat16, keeps or returns it",
    source="_check_triton_bf16_support in torch/_inductor/compile_fx.py",
)
def inductor_without_bfloat16(trace: Trace, target: Target) -> str | None:
    if NOT_COMPILED not in remarked():
        return None
    return f"what torch.compile would fuse: Inductor compiles no bfloat16 for {target.name}, and it runs as it is written"
