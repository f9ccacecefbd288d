"""Products of float32 matrices that use no tensor cores."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from typing import Final

import numpy as np

from torchprof.advice.device_loop import device_loop_of, kernel_modules, kernels_named
from torchprof.advice.finding import Finding
from torchprof.advice.gpus import Formats, formats_of
from torchprof.advice.op_sums import lines_of, of_names
from torchprof.advice.registry import NotTold, rule
from torchprof.analysis.gpu.kernel_names import short_name
from torchprof.analysis.gpu.launchers import op_label
from torchprof.analysis.lines.where import most_first
from torchprof.rendering.units import format_ns
from torchprof.trace.schema import Rows
from torchprof.trace.trace import Trace

__all__ = ["float32_products"]

PLAIN: Final = re.compile(
    r"_sgemm(?!<)|scudnn"  # ampere_sgemm_128x64_tn, cutlass_80_simt_sgemm_..., volta_scudnn_128x64_relu_medium
    r"|f32f32_f32f32_f32|_ffma_"  # sm80_xmma_gemm_f32f32_f32f32_f32_tn_n_tilesize32x32x8_..._ffma_...
    r"|(?:dgrad|wgrad)\w*_engine<float|convolve\w*<float|winograd\w*<float|fft2d_\w+<float"  # cuDNN's own
    r"|^Cijk_\w+?_SB_"  # Tensile of ROCm: S is float32
)
"""Names of kernels that multiply float32 matrices without tensor cores."""
TF32: Final = re.compile(r"tf32|(?:tensorop|[^6])_s1688|xf32", re.IGNORECASE)
"""Names of kernels that multiply float32 matrices on tensor cores. ``f16_s1688`` and ``bf16_s16816`` are others."""


@rule("float32 products where shorter formats would do")
def float32_products(trace: Trace) -> Iterator[Finding]:
    """Kernels whose name says that they multiply float32 without tensor cores, on a GPU that has some for a shorter format.

    What is worth is between nothing, where a product waits for memory, and what the ratio of the peaks of the GPU allows. On a
    GA100, PyTorch's own example of a large product takes 0.11 s without TF32 and 0.016 s with it (notes on CUDA semantics).
    """
    loop = device_loop_of(trace)
    kernels = _without_choices(trace, kernels_named(trace, lambda name: PLAIN.search(name) and not TF32.search(name)))
    time = kernels["time"].sum() / loop.steps
    if loop.is_small(time):
        return
    formats = formats_of(trace)
    if formats is None:
        raise NotTold("it is not known which GPU this is, and whether it has tensor cores for shorter formats")
    if formats.half <= 1:
        return
    by_op: dict[str, list[int]] = defaultdict(list)
    for row, op in enumerate(kernels["op"].tolist()):
        by_op[op_label(trace, op)].append(row)
    times = {op: int(kernels["time"][rows].sum()) for op, rows in by_op.items()}
    details = []
    for op in sorted(by_op, key=lambda op: -times[op]):
        rows = kernels[by_op[op]]
        example = short_name(trace.strings[int(rows["name"][rows["time"].argmax()])])
        details.append(f"{op}: {format_ns(times[op] // loop.steps)}, such as {example}")
    modules = kernel_modules(trace, kernels)
    sums = of_names(trace, *by_op)
    yield Finding(
        "float32_products",
        f"Products and convolutions of float32 without tensor cores take {format_ns(round(time))} of the "
        f"{format_ns(loop.busy)} in which the device is busy in a step",
        _advice(formats),
        "https://docs.pytorch.org/docs/stable/notes/cuda.html#tensorfloat-32-tf32-on-ampere-and-later-devices"
        if formats.tf32 > 1
        else "https://docs.pytorch.org/docs/stable/amp.html",
        loop.worth(
            time * (1 - 1 / max(formats.tf32, formats.half)),
            "at most by the ratio of the GPU's peaks; nothing where a product waits for memory",
            measured=False,
        ),
        module=modules[0] if len(modules) == 1 else "",
        lines=tuple(most_first(zip(lines_of(trace, sums), sums["device_time"].tolist(), strict=True))),
        details=tuple(details),
    )


def _without_choices(trace: Trace, kernels: Rows) -> Rows:
    """The kernels, without those of products or of convolutions where others of these use TF32: there the library chose."""
    allowed = {_is_convolution(trace, op) for op in kernels_named(trace, TF32.search)["op"].tolist()}
    kept = np.array([_is_convolution(trace, op) not in allowed for op in kernels["op"].tolist()], dtype=np.bool_)
    found: Rows = kernels[kept]
    return found


def _is_convolution(trace: Trace, op: int) -> bool:
    return "conv" in op_label(trace, op)


def _advice(formats: Formats) -> str:
    half = "bfloat16" if formats.bfloat16 else "float16 and a GradScaler"
    mixed = f"torch.autocast with {half}, up to {formats.half:.0f} times as fast by the peaks of this GPU"
    if formats.tf32 <= 1:
        return f"Mixed precision: {mixed}; parameters stay float32."
    return (
        'torch.set_float32_matmul_precision("high") for products, and torch.backends.cudnn.allow_tf32 = True for '
        f"convolutions, round operands to TF32, up to {formats.tf32:.0f} times as fast; or {mixed}."
    )
