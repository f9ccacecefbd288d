"""Convolutions that convert the layout of their operands, because these have channels first."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from torchprof.advice.device_loop import device_loop_of, kernel_modules, kernels_named
from torchprof.advice.finding import Finding
from torchprof.advice.op_sums import lines_of, of_names
from torchprof.advice.registry import rule
from torchprof.analysis.gpu.kernel_names import short_name
from torchprof.analysis.gpu.launchers import op_label
from torchprof.analysis.lines.where import most_first
from torchprof.rendering.units import format_ns
from torchprof.trace.trace import Trace
from torchprof.wording import counted

__all__ = ["channels_first"]

CONVERTS: Final = re.compile(r"nchwToNhwc|nhwcToNchw|nchw2nhwc|nhwc2nchw|batched_transpose_\d", re.IGNORECASE)
"""Names of kernels of cuDNN and, the last, of MIOpen that convert between channels first and last."""


@rule("convolutions that convert from channels first")
def channels_first(trace: Trace) -> Iterator[Finding]:
    """Kernels that libraries of convolutions put around their own, whose tensor cores want channels last.

    On a CPU, oneDNN converts inside its ops, and nothing can be measured.
    """
    loop = device_loop_of(trace)
    kernels = kernels_named(trace, CONVERTS.search)
    time = int(kernels["time"].sum()) // loop.steps
    if loop.is_small(time):
        return
    modules = kernel_modules(trace, kernels)
    names = [short_name(trace.strings[name]) for name in kernels["name"].tolist()]
    counts = {name: sum(kernels["count"][row] for row, each in enumerate(names) if each == name) for name in names}
    times = {name: sum(kernels["time"][row] for row, each in enumerate(names) if each == name) for name in names}
    sums = of_names(trace, *{op_label(trace, op) for op in kernels["op"].tolist()})
    yield Finding(
        "channels_first",
        f"Convolutions convert their operands from channels first, which takes {format_ns(time)} of the "
        f"{format_ns(loop.busy)} in which the device is busy in a step",
        "Keep the model and its input in channels last: model.to(memory_format=torch.channels_last), and the same for the "
        "batch. On ROCm, some versions of PyTorch want PYTORCH_MIOPEN_SUGGEST_NHWC=1 as well.",
        "https://docs.pytorch.org/tutorials/intermediate/memory_format_tutorial.html",
        loop.worth(time, "the device time of the kernels that convert"),
        module=modules[0] if len(modules) == 1 else "",
        lines=tuple(most_first(zip(lines_of(trace, sums), sums["device_time"].tolist(), strict=True))),
        details=tuple(
            f"{name}: {format_ns(int(times[name]) // loop.steps)} in {counted(round(counts[name] / loop.steps), 'kernel')}"
            for name in sorted(times, key=lambda name: -times[name])
        ),
    )
